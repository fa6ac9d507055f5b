;; A guest that keeps text in the file `log` of its virtual disk, through preview 1. Its state is empty.
;;
;; execute  `w` and a text appends the text; `x` does the same and traps; `r` answers the bytes of the file; `k` opens it and
;;          leaves it open; `u` reads from what `k` has opened; `d` removes the file. A call of WASI that fails answers
;;          the error "errno N".
;; query    the same
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  ;; 16 answer, 32 the buffer of a call, 40 what a call returns, 64 texts, 4096..65536 bytes that are read, then the heap.
  (data (i32.const 64) "log")
  (data (i32.const 80) "errno 00")
  (global $heap (mut i32) (i32.const 65536))
  (global $kept (mut i32) (i32.const -1))

  (func $answer (param $failed i32) (param $text i32) (param $length i32) (result i32)
    (i32.store8 (i32.const 16) (local.get $failed))
    (i32.store (i32.const 20) (local.get $text))
    (i32.store (i32.const 24) (local.get $length))
    (i32.const 16))

  (func $errno (param $errno i32) (result i32)
    (i32.store8 (i32.const 86) (i32.add (i32.const 48) (i32.div_u (local.get $errno) (i32.const 10))))
    (i32.store8 (i32.const 87) (i32.add (i32.const 48) (i32.rem_u (local.get $errno) (i32.const 10))))
    (call $answer (i32.const 1) (i32.const 80) (i32.const 8)))

  ;; Opens `log` below the first preopened directory, with all rights. The descriptor is at 40.
  (func $open (param $oflags i32) (param $fdflags i32) (param $rights i64) (result i32)
    (call $path_open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 3)
      (local.get $oflags) (local.get $rights) (i64.const 0) (local.get $fdflags) (i32.const 40)))

  (func $buffer (param $at i32) (param $length i32)
    (i32.store (i32.const 32) (local.get $at))
    (i32.store (i32.const 36) (local.get $length)))

  ;; Reads from a descriptor and answers the bytes.
  (func $read (param $fd i32) (result i32)
    (local $errno i32)
    (call $buffer (i32.const 4096) (i32.const 61440))
    (local.set $errno (call $fd_read (local.get $fd) (i32.const 32) (i32.const 1) (i32.const 44)))
    (if (local.get $errno) (then (return (call $errno (local.get $errno)))))
    (call $answer (i32.const 0) (i32.const 4096) (i32.load (i32.const 44))))

  (func $run (param $body i32) (param $length i32) (result i32)
    (local $errno i32) (local $verb i32) (local $fd i32) (local $answer i32)
    (global.set $heap (i32.const 65536))
    (local.set $verb (i32.load8_u (local.get $body)))
    (if (i32.eq (local.get $verb) (i32.const 117)) ;; u
      (then (return (call $read (global.get $kept)))))
    (if (i32.eq (local.get $verb) (i32.const 100)) ;; d
      (then
        (local.set $errno (call $unlink (i32.const 3) (i32.const 64) (i32.const 3)))
        (if (local.get $errno) (then (return (call $errno (local.get $errno)))))
        (return (call $answer (i32.const 0) (i32.const 0) (i32.const 0)))))
    (if (i32.or (i32.eq (local.get $verb) (i32.const 119)) (i32.eq (local.get $verb) (i32.const 120))) ;; w, x
      (then
        ;; CREAT, APPEND, and the right to write.
        (local.set $errno (call $open (i32.const 1) (i32.const 1) (i64.const 64)))
        (if (local.get $errno) (then (return (call $errno (local.get $errno)))))
        (local.set $fd (i32.load (i32.const 40)))
        (call $buffer (i32.add (local.get $body) (i32.const 1)) (i32.sub (local.get $length) (i32.const 1)))
        (local.set $errno (call $fd_write (local.get $fd) (i32.const 32) (i32.const 1) (i32.const 44)))
        (if (local.get $errno) (then (return (call $errno (local.get $errno)))))
        (if (i32.eq (local.get $verb) (i32.const 120)) (then unreachable))
        (drop (call $fd_close (local.get $fd)))
        (return (call $answer (i32.const 0) (i32.const 0) (i32.const 0)))))
    ;; The right to read.
    (local.set $errno (call $open (i32.const 0) (i32.const 0) (i64.const 2)))
    (if (local.get $errno) (then (return (call $errno (local.get $errno)))))
    (if (i32.eq (local.get $verb) (i32.const 107)) ;; k
      (then
        (global.set $kept (i32.load (i32.const 40)))
        (return (call $answer (i32.const 0) (i32.const 0) (i32.const 0)))))
    (local.set $fd (i32.load (i32.const 40)))
    (local.set $answer (call $read (local.get $fd)))
    (drop (call $fd_close (local.get $fd)))
    (local.get $answer))

  (func (export "lifeboat:vm/workload@0.1.0#execute")
    (param i32 i32 i32 i32 i64 i64) (param $body i32) (param $length i32) (result i32)
    (call $run (local.get $body) (local.get $length)))

  (func (export "lifeboat:vm/workload@0.1.0#query")
    (param i32 i32 i32 i32 i64 i64) (param $body i32) (param $length i32) (result i32)
    (call $run (local.get $body) (local.get $length)))

  (func (export "lifeboat:vm/workload@0.1.0#state-version") (result i32) (i32.const 1))

  ;; An export that changed the disk would fail.
  (func (export "lifeboat:vm/workload@0.1.0#snapshot") (result i32)
    (local $errno i32)
    (local.set $errno (call $unlink (i32.const 3) (i32.const 64) (i32.const 3)))
    (if (local.get $errno) (then (return (call $errno (local.get $errno)))))
    (call $answer (i32.const 0) (i32.const 0) (i32.const 0)))

  (func (export "lifeboat:vm/workload@0.1.0#restore") (param $version i32) (result i32)
    (call $answer (i32.const 0) (i32.const 0) (i32.const 0)))

  ;; A bump allocator that the next execute or query takes back.
  (func (export "cabi_realloc")
    (param $old i32) (param $old_length i32) (param $align i32) (param $length i32) (result i32)
    (local $start i32)
    (local.set $start
      (i32.and
        (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
    (global.set $heap (i32.add (local.get $start) (local.get $length)))
    (if (i32.lt_u (global.get $heap) (local.get $start)) (then unreachable))
    (block $fits
      (loop $grow
        (br_if $fits (i32.le_u (i32.shr_u (global.get $heap) (i32.const 16)) (i32.sub (memory.size) (i32.const 1))))
        (br_if $grow (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))
        unreachable))
    (memory.copy (local.get $start) (local.get $old) (local.get $old_length))
    (local.get $start)))
