;; Writes files of its virtual disk, and reads them. A body is a letter and a number in decimal. Every error is a trap.
;;
;; f  writes 16 MiB to the file `file` through a stream, in so many bytes at once by `blocking-write-and-flush`, at most
;;    4,096, and reads them through a stream, as many at once
;; s  the same in at most 65,536 bytes, by `check-write`, `write` and `blocking-flush`
;; d  the same without streams, by `descriptor.write` and `descriptor.read`
;; a  appends so many times 64 KiB to the file
;; o  writes so many times 64 KiB to the start of the file
;; u  removes the file, if it is there
;;
;; WASI 0.2 is imported by its canonical names: `guests.rs` makes it a component. The state is empty.
(module
  (import "wasi:filesystem/preopens@0.2.12" "get-directories" (func $get-directories (param i32)))
  (import "wasi:filesystem/types@0.2.12" "[method]descriptor.open-at"
    (func $open-at (param i32 i32 i32 i32 i32 i32 i32)))
  (import "wasi:filesystem/types@0.2.12" "[method]descriptor.unlink-file-at" (func $unlink (param i32 i32 i32 i32)))
  (import "wasi:filesystem/types@0.2.12" "[method]descriptor.read-via-stream" (func $read-via (param i32 i64 i32)))
  (import "wasi:filesystem/types@0.2.12" "[method]descriptor.write-via-stream" (func $write-via (param i32 i64 i32)))
  (import "wasi:filesystem/types@0.2.12" "[method]descriptor.append-via-stream" (func $append-via (param i32 i32)))
  (import "wasi:filesystem/types@0.2.12" "[method]descriptor.read" (func $read-at (param i32 i64 i64 i32)))
  (import "wasi:filesystem/types@0.2.12" "[method]descriptor.write" (func $write-at (param i32 i32 i32 i64 i32)))
  (import "wasi:filesystem/types@0.2.12" "[resource-drop]descriptor" (func $drop-descriptor (param i32)))
  (import "wasi:io/streams@0.2.12" "[method]input-stream.blocking-read" (func $read (param i32 i64 i32)))
  (import "wasi:io/streams@0.2.12" "[resource-drop]input-stream" (func $drop-input (param i32)))
  (import "wasi:io/streams@0.2.12" "[method]output-stream.check-write" (func $check-write (param i32 i32)))
  (import "wasi:io/streams@0.2.12" "[method]output-stream.write" (func $write (param i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.12" "[method]output-stream.blocking-flush" (func $flush (param i32 i32)))
  (import "wasi:io/streams@0.2.12" "[method]output-stream.blocking-write-and-flush"
    (func $write-and-flush (param i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.12" "[resource-drop]output-stream" (func $drop-output (param i32)))
  ;; 16 answer of an export, 48 answer of an import, 96 the name, from 64 KiB what is written, from 128 KiB the heap.
  (memory (export "memory") 5)
  (data (i32.const 96) "file")
  (global $heap (mut i32) (i32.const 131072))
  (global $total i64 (i64.const 16777216))

  (func $number (param $text i32) (param $length i32) (result i32)
    (local $number i32)
    (block $parsed
      (loop $next
        (br_if $parsed (i32.eqz (local.get $length)))
        (local.set $number
          (i32.add
            (i32.mul (local.get $number) (i32.const 10))
            (i32.sub (i32.load8_u (local.get $text)) (i32.const 48))))
        (local.set $text (i32.add (local.get $text) (i32.const 1)))
        (local.set $length (i32.sub (local.get $length) (i32.const 1)))
        (br $next)))
    (local.get $number))

  ;; Traps if the last import answered an error.
  (func $check
    (if (i32.load8_u (i32.const 48)) (then unreachable)))

  ;; Writes `$step` bytes that begin with their offset.
  (func $write-stream (param $letter i32) (param $stream i32) (param $step i32) (param $offset i64)
    (i64.store (i32.const 65536) (local.get $offset))
    (if (i32.eq (local.get $letter) (i32.const 102)) ;; f
      (then
        (call $write-and-flush (local.get $stream) (i32.const 65536) (local.get $step) (i32.const 48))
        (call $check)
        (return)))
    (call $check-write (local.get $stream) (i32.const 48))
    (call $check)
    (if (i64.lt_u (i64.load (i32.const 56)) (i64.extend_i32_u (local.get $step))) (then unreachable))
    (call $write (local.get $stream) (i32.const 65536) (local.get $step) (i32.const 48))
    (call $check)
    (call $flush (local.get $stream) (i32.const 48))
    (call $check))

  ;; Traps unless the last import answered `$step` bytes that begin with their offset, and takes their memory back.
  (func $compare (param $step i32) (param $offset i64)
    (call $check)
    (if (i32.ne (i32.load (i32.const 56)) (local.get $step)) (then unreachable))
    (if (i64.ne (i64.load (i32.load (i32.const 52))) (local.get $offset)) (then unreachable))
    (global.set $heap (i32.const 131072)))

  (func $through-streams (param $letter i32) (param $file i32) (param $step i32)
    (local $stream i32) (local $offset i64)
    (call $write-via (local.get $file) (i64.const 0) (i32.const 48))
    (call $check)
    (local.set $stream (i32.load (i32.const 52)))
    (loop $next
      (call $write-stream (local.get $letter) (local.get $stream) (local.get $step) (local.get $offset))
      (local.set $offset (i64.add (local.get $offset) (i64.extend_i32_u (local.get $step))))
      (br_if $next (i64.lt_u (local.get $offset) (global.get $total))))
    (call $drop-output (local.get $stream))
    (call $read-via (local.get $file) (i64.const 0) (i32.const 48))
    (call $check)
    (local.set $stream (i32.load (i32.const 52)))
    (local.set $offset (i64.const 0))
    (loop $next
      (call $read (local.get $stream) (i64.extend_i32_u (local.get $step)) (i32.const 48))
      (call $compare (local.get $step) (local.get $offset))
      (local.set $offset (i64.add (local.get $offset) (i64.extend_i32_u (local.get $step))))
      (br_if $next (i64.lt_u (local.get $offset) (global.get $total))))
    (call $drop-input (local.get $stream)))

  (func $without-streams (param $file i32) (param $step i32)
    (local $offset i64)
    (loop $next
      (i64.store (i32.const 65536) (local.get $offset))
      (call $write-at (local.get $file) (i32.const 65536) (local.get $step) (local.get $offset) (i32.const 48))
      (call $check)
      (if (i64.ne (i64.load (i32.const 56)) (i64.extend_i32_u (local.get $step))) (then unreachable))
      (local.set $offset (i64.add (local.get $offset) (i64.extend_i32_u (local.get $step))))
      (br_if $next (i64.lt_u (local.get $offset) (global.get $total))))
    (local.set $offset (i64.const 0))
    (loop $next
      (call $read-at (local.get $file) (i64.extend_i32_u (local.get $step)) (local.get $offset) (i32.const 48))
      (call $compare (local.get $step) (local.get $offset))
      (local.set $offset (i64.add (local.get $offset) (i64.extend_i32_u (local.get $step))))
      (br_if $next (i64.lt_u (local.get $offset) (global.get $total)))))

  ;; Writes `$count` times 64 KiB, at the end of the file or at its start.
  (func $fill (param $letter i32) (param $file i32) (param $count i32)
    (local $stream i32)
    (if (i32.eq (local.get $letter) (i32.const 97)) ;; a
      (then (call $append-via (local.get $file) (i32.const 48)))
      (else (call $write-via (local.get $file) (i64.const 0) (i32.const 48))))
    (call $check)
    (local.set $stream (i32.load (i32.const 52)))
    (loop $next
      (call $write-stream
        (local.get $letter) (local.get $stream) (i32.const 65536) (i64.extend_i32_u (local.get $count)))
      (local.set $count (i32.sub (local.get $count) (i32.const 1)))
      (br_if $next (local.get $count)))
    (call $drop-output (local.get $stream)))

  (func (export "lifeboat:vm/workload@0.1.0#execute")
    (param i32 i32 i32 i32 i64 i64) (param $body i32) (param $length i32) (result i32)
    (local $letter i32) (local $number i32) (local $root i32) (local $file i32)
    (local.set $letter (i32.load8_u (local.get $body)))
    (local.set $number
      (call $number (i32.add (local.get $body) (i32.const 1)) (i32.sub (local.get $length) (i32.const 1))))
    (global.set $heap (i32.const 131072))
    (call $get-directories (i32.const 48))
    (local.set $root (i32.load (i32.load (i32.const 48))))
    (global.set $heap (i32.const 131072))
    (if (i32.eq (local.get $letter) (i32.const 117)) ;; u
      (then (call $unlink (local.get $root) (i32.const 96) (i32.const 4) (i32.const 48)))
      (else
        ;; Creates the file if it is missing, for reading and writing.
        (call $open-at
          (local.get $root) (i32.const 0) (i32.const 96) (i32.const 4) (i32.const 1) (i32.const 3) (i32.const 48))
        (call $check)
        (local.set $file (i32.load (i32.const 52)))
        (if (i32.or (i32.eq (local.get $letter) (i32.const 102)) (i32.eq (local.get $letter) (i32.const 115))) ;; f, s
          (then (call $through-streams (local.get $letter) (local.get $file) (local.get $number))))
        (if (i32.eq (local.get $letter) (i32.const 100)) ;; d
          (then (call $without-streams (local.get $file) (local.get $number))))
        (if (i32.or (i32.eq (local.get $letter) (i32.const 97)) (i32.eq (local.get $letter) (i32.const 111))) ;; a, o
          (then (call $fill (local.get $letter) (local.get $file) (local.get $number))))
        (call $drop-descriptor (local.get $file))))
    (call $drop-descriptor (local.get $root))
    (i32.store8 (i32.const 16) (i32.const 0))
    (i64.store (i32.const 20) (i64.const 0))
    (i32.const 16))

  (func (export "lifeboat:vm/workload@0.1.0#query")
    (param i32 i32 i32 i32 i64 i64 i32 i32) (result i32)
    unreachable)

  (func (export "lifeboat:vm/workload@0.1.0#state-version") (result i32) (i32.const 1))

  (func (export "lifeboat:vm/workload@0.1.0#snapshot") (result i32)
    (i32.store8 (i32.const 16) (i32.const 0))
    (i32.const 16))

  (func (export "lifeboat:vm/workload@0.1.0#restore") (param $version i32) (result i32)
    (i32.store8 (i32.const 16) (i32.const 0))
    (i32.const 16))

  ;; A bump allocator that each use of its memory takes back.
  (func (export "cabi_realloc")
    (param $old i32) (param $old_length i32) (param $align i32) (param $length i32) (result i32)
    (local $start i32)
    (local.set $start
      (i32.and
        (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
    (global.set $heap (i32.add (local.get $start) (local.get $length)))
    (memory.copy (local.get $start) (local.get $old) (local.get $old_length))
    (local.get $start)))
