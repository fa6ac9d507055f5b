;; count.wat, but every function, and the one that initialises the instance, first posts five bytes to a host, and traps
;; unless `outgoing-handler.handle` answers `HTTP-request-denied`. `boom` traps afterwards.
;;
;; WASI 0.2 is imported by its canonical names: tests make it a component of a world with `wasi:http`.
(module
  (import "lifeboat:vm/state@0.1.0" "write" (func $write (param $chunk i32) (param $length i32)))
  (import "lifeboat:vm/state@0.1.0" "read" (func $read (param $max i32) (param $answer i32)))
  (import "wasi:http/types@0.2.12" "[constructor]fields" (func $fields (result i32)))
  (import "wasi:http/types@0.2.12" "[method]fields.append" (func $append (param i32 i32 i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.12" "[constructor]outgoing-request" (func $request (param i32) (result i32)))
  (import "wasi:http/types@0.2.12" "[method]outgoing-request.set-method"
    (func $set-method (param i32 i32 i32 i32) (result i32)))
  (import "wasi:http/types@0.2.12" "[method]outgoing-request.set-authority"
    (func $set-authority (param i32 i32 i32 i32) (result i32)))
  (import "wasi:http/types@0.2.12" "[method]outgoing-request.body" (func $body (param i32 i32)))
  (import "wasi:http/types@0.2.12" "[method]outgoing-body.write" (func $stream (param i32 i32)))
  (import "wasi:http/types@0.2.12" "[static]outgoing-body.finish" (func $finish (param i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.12" "[constructor]request-options" (func $options (result i32)))
  (import "wasi:io/streams@0.2.12" "[method]output-stream.blocking-write-and-flush"
    (func $write-body (param i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.12" "[resource-drop]output-stream" (func $drop-stream (param i32)))
  (import "wasi:http/outgoing-handler@0.2.12" "handle" (func $handle (param i32 i32 i32 i32)))
  (memory (export "memory") 2)
  ;; 16 answer of an export or of `read`, 32 state, 64..96 digits, 128 texts, 512 answers of imports, from 1024 the heap.
  (data (i32.const 128) "boom")
  (data (i32.const 144) "content-length")
  (data (i32.const 160) "5")
  (data (i32.const 176) "example.org")
  (data (i32.const 192) "hello")
  (global $heap (mut i32) (i32.const 1024))
  (global $count (mut i64) (i64.const 0))

  ;; Traps unless the result of an import is `ok`, and answers the handle in it.
  (func $ok (result i32)
    (if (i32.load8_u (i32.const 512)) (then unreachable))
    (i32.load (i32.const 516)))

  ;; Traps unless the request is denied.
  (func $denied
    (local $headers i32) (local $request i32) (local $body i32) (local $stream i32)
    (local.set $headers (call $fields))
    (call $append (local.get $headers)
      (i32.const 144) (i32.const 14) (i32.const 160) (i32.const 1) (i32.const 512))
    (drop (call $ok))
    (local.set $request (call $request (local.get $headers)))
    ;; The method is `post`.
    (if (call $set-method (local.get $request) (i32.const 2) (i32.const 0) (i32.const 0)) (then unreachable))
    (if (call $set-authority (local.get $request) (i32.const 1) (i32.const 176) (i32.const 11)) (then unreachable))
    (call $body (local.get $request) (i32.const 512))
    (local.set $body (call $ok))
    (call $stream (local.get $body) (i32.const 512))
    (local.set $stream (call $ok))
    (call $write-body (local.get $stream) (i32.const 192) (i32.const 5) (i32.const 512))
    (drop (call $ok))
    (call $drop-stream (local.get $stream))
    (call $finish (local.get $body) (i32.const 0) (i32.const 0) (i32.const 512))
    (drop (call $ok))
    (call $handle (local.get $request) (i32.const 1) (call $options) (i32.const 512))
    ;; An error, the sixteenth of the error codes.
    (if (i32.ne (i32.load8_u (i32.const 512)) (i32.const 1)) (then unreachable))
    (if (i32.ne (i32.load8_u (i32.const 520)) (i32.const 15)) (then unreachable)))

  (func (export "_initialize") (call $denied))

  ;; Answers `ok` with some bytes.
  (func $answer (param $text i32) (param $length i32) (result i32)
    (i32.store8 (i32.const 16) (i32.const 0))
    (i32.store (i32.const 20) (local.get $text))
    (i32.store (i32.const 24) (local.get $length))
    (i32.const 16))

  ;; Answers `ok` with the count in decimal.
  (func $answer_count (result i32)
    (local $rest i64) (local $digit i32)
    (local.set $rest (global.get $count))
    (local.set $digit (i32.const 96))
    (loop $next
      (local.set $digit (i32.sub (local.get $digit) (i32.const 1)))
      (i32.store8 (local.get $digit)
        (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $rest) (i64.const 10)))))
      (local.set $rest (i64.div_u (local.get $rest) (i64.const 10)))
      (br_if $next (i64.ne (local.get $rest) (i64.const 0))))
    (call $answer (local.get $digit) (i32.sub (i32.const 96) (local.get $digit))))

  (func (export "lifeboat:vm/workload@0.1.0#execute")
    (param i32 i32 i32 i32 i64 i64) (param $body i32) (param $length i32) (result i32)
    (local $is-boom i32)
    (global.set $heap (i32.const 1024))
    (if (i32.eq (local.get $length) (i32.const 4))
      (then
        (local.set $is-boom (i32.eq (i32.load (local.get $body)) (i32.load (i32.const 128))))))
    (call $denied)
    (if (local.get $is-boom) (then unreachable))
    (global.set $count (i64.add (global.get $count) (i64.const 1)))
    (call $answer_count))

  (func (export "lifeboat:vm/workload@0.1.0#query")
    (param i32 i32 i32 i32 i64 i64) (param $body i32) (param $length i32) (result i32)
    (global.set $heap (i32.const 1024))
    (call $denied)
    (call $answer_count))

  (func (export "lifeboat:vm/workload@0.1.0#state-version") (result i32) (i32.const 1))

  (func (export "lifeboat:vm/workload@0.1.0#snapshot") (result i32)
    (call $denied)
    (i64.store (i32.const 32) (global.get $count))
    (call $write (i32.const 32) (i32.const 8))
    (call $answer (i32.const 0) (i32.const 0)))

  ;; `read` may answer fewer bytes than asked for, and none at the end: then this traps.
  (func (export "lifeboat:vm/workload@0.1.0#restore") (param $version i32) (result i32)
    (local $have i32)
    (call $denied)
    (loop $more
      (call $read (i32.sub (i32.const 8) (local.get $have)) (i32.const 16))
      (if (i32.eqz (i32.load (i32.const 20))) (then unreachable))
      (memory.copy (i32.add (i32.const 32) (local.get $have)) (i32.load (i32.const 16)) (i32.load (i32.const 20)))
      (local.set $have (i32.add (local.get $have) (i32.load (i32.const 20))))
      (br_if $more (i32.lt_u (local.get $have) (i32.const 8))))
    (global.set $count (i64.load (i32.const 32)))
    (call $answer (i32.const 0) (i32.const 0)))

  ;; A bump allocator that the next execute or query takes back.
  (func (export "cabi_realloc")
    (param $old i32) (param $old_length i32) (param $align i32) (param $length i32) (result i32)
    (local $start i32)
    (local.set $start
      (i32.and
        (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
    (global.set $heap (i32.add (local.get $start) (local.get $length)))
    (if (i32.gt_u (global.get $heap) (i32.const 131072)) (then unreachable))
    (memory.copy (local.get $start) (local.get $old) (local.get $old_length))
    (local.get $start)))
