;; Posts the id of a transaction to a server, and counts the posts that were answered.
;;
;; The body of a transaction is a digit and host and port: `2127.0.0.1:8080` makes two calls at once over HTTP, and `0`
;; makes none and answers 0. The answer is the status of the last one, or refuses with the text of `internal-error`, or
;; with `code` and the number of another error. A `!` after the digit traps at the end. A `~` burns fuel at the end, as
;; much as a count of 100,000. A `^` grows the memory by 12.5 MiB at the end. A `=` never ends. With a `#` the post of a
;; transaction with an odd sequence number lacks the last byte. A query answers the count.
;;
;; WASI 0.2 is imported by its canonical names: tests make it a component of a world with `wasi:http`.
(module
  (import "lifeboat:vm/state@0.1.0" "write" (func $write (param $chunk i32) (param $length i32)))
  (import "lifeboat:vm/state@0.1.0" "read" (func $read (param $max i32) (param $answer i32)))
  (import "wasi:http/types@0.2.12" "[constructor]fields" (func $fields (result i32)))
  (import "wasi:http/types@0.2.12" "[constructor]outgoing-request" (func $request (param i32) (result i32)))
  (import "wasi:http/types@0.2.12" "[method]outgoing-request.set-method"
    (func $set-method (param i32 i32 i32 i32) (result i32)))
  (import "wasi:http/types@0.2.12" "[method]outgoing-request.set-scheme"
    (func $set-scheme (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi:http/types@0.2.12" "[method]outgoing-request.set-authority"
    (func $set-authority (param i32 i32 i32 i32) (result i32)))
  (import "wasi:http/types@0.2.12" "[method]outgoing-request.body" (func $body (param i32 i32)))
  (import "wasi:http/types@0.2.12" "[method]outgoing-body.write" (func $stream (param i32 i32)))
  (import "wasi:http/types@0.2.12" "[static]outgoing-body.finish" (func $finish (param i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.12" "[method]future-incoming-response.subscribe" (func $subscribe (param i32) (result i32)))
  (import "wasi:http/types@0.2.12" "[method]future-incoming-response.get" (func $get (param i32 i32)))
  (import "wasi:http/types@0.2.12" "[resource-drop]future-incoming-response" (func $drop-future (param i32)))
  (import "wasi:http/types@0.2.12" "[method]incoming-response.status" (func $status (param i32) (result i32)))
  (import "wasi:http/types@0.2.12" "[resource-drop]incoming-response" (func $drop-response (param i32)))
  (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))
  (import "wasi:io/poll@0.2.12" "[resource-drop]pollable" (func $drop-pollable (param i32)))
  (import "wasi:io/streams@0.2.12" "[method]output-stream.blocking-write-and-flush"
    (func $write-body (param i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.12" "[resource-drop]output-stream" (func $drop-stream (param i32)))
  (import "wasi:http/outgoing-handler@0.2.12" "handle" (func $handle (param i32 i32 i32 i32)))
  (memory (export "memory") 2)
  ;; 16 answer of an export or of `read`, 32 state, 64..96 digits, 128 texts, 256 futures, 512 answers of imports, from
  ;; 1024 the heap.
  (data (i32.const 128) "code ")
  (global $heap (mut i32) (i32.const 1024))
  (global $count (mut i64) (i64.const 0))

  ;; Traps unless the result of an import is `ok`, and answers the handle in it.
  (func $ok (result i32)
    (if (i32.load8_u (i32.const 512)) (then unreachable))
    (i32.load (i32.const 516)))

  ;; Hands a request over, and answers the future.
  (func $post (param $id i32) (param $id-length i32) (param $host i32) (param $host-length i32) (result i32)
    (local $request i32) (local $body i32) (local $stream i32)
    (local.set $request (call $request (call $fields)))
    ;; The method is `post`, the scheme `HTTP`.
    (if (call $set-method (local.get $request) (i32.const 2) (i32.const 0) (i32.const 0)) (then unreachable))
    (if (call $set-scheme (local.get $request) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0))
      (then unreachable))
    (if (call $set-authority (local.get $request) (i32.const 1) (local.get $host) (local.get $host-length))
      (then unreachable))
    (call $body (local.get $request) (i32.const 512))
    (local.set $body (call $ok))
    (call $stream (local.get $body) (i32.const 512))
    (local.set $stream (call $ok))
    (call $write-body (local.get $stream) (local.get $id) (local.get $id-length) (i32.const 512))
    (drop (call $ok))
    (call $drop-stream (local.get $stream))
    (call $finish (local.get $body) (i32.const 0) (i32.const 0) (i32.const 512))
    (if (i32.load8_u (i32.const 512)) (then unreachable))
    (call $handle (local.get $request) (i32.const 0) (i32.const 0) (i32.const 512))
    ;; Without a network this is an error, and 0 stands for it.
    (if (i32.load8_u (i32.const 512)) (then (return (i32.const 0))))
    (i32.load (i32.const 520)))

  ;; Waits for a response, and leaves the result of `get` at 512.
  (func $wait (param $future i32)
    (local $pollable i32)
    (local.set $pollable (call $subscribe (local.get $future)))
    (call $block (local.get $pollable))
    (call $drop-pollable (local.get $pollable))
    (call $get (local.get $future) (i32.const 512))
    (call $drop-future (local.get $future))
    ;; It is there, and this is the first time.
    (if (i32.eqz (i32.load8_u (i32.const 512))) (then unreachable))
    (if (i32.load8_u (i32.const 520)) (then unreachable)))

  (func $answer-as (param $is-refused i32) (param $text i32) (param $length i32) (result i32)
    (global.set $heap (i32.const 1024))
    (i32.store8 (i32.const 16) (local.get $is-refused))
    (i32.store (i32.const 20) (local.get $text))
    (i32.store (i32.const 24) (local.get $length))
    (i32.const 16))

  ;; Writes a number in decimal before 96, and answers where it begins.
  (func $decimal (param $rest i64) (result i32)
    (local $digit i32)
    (local.set $digit (i32.const 96))
    (loop $next
      (local.set $digit (i32.sub (local.get $digit) (i32.const 1)))
      (i32.store8 (local.get $digit)
        (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $rest) (i64.const 10)))))
      (local.set $rest (i64.div_u (local.get $rest) (i64.const 10)))
      (br_if $next (i64.ne (local.get $rest) (i64.const 0))))
    (local.get $digit))

  (func $answer-number (param $number i64) (result i32)
    (local $digit i32)
    (local.set $digit (call $decimal (local.get $number)))
    (call $answer-as (i32.const 0) (local.get $digit) (i32.sub (i32.const 96) (local.get $digit))))

  ;; Refuses with the error code at 536.
  (func $refuse (result i32)
    (local $digit i32)
    (if (i32.eq (i32.load8_u (i32.const 536)) (i32.const 38))
      (then
        (if (i32.load8_u (i32.const 544))
          (then (return (call $answer-as (i32.const 1) (i32.load (i32.const 548)) (i32.load (i32.const 552))))))))
    (local.set $digit (call $decimal (i64.extend_i32_u (i32.load8_u (i32.const 536)))))
    (memory.copy (i32.const 133) (local.get $digit) (i32.sub (i32.const 96) (local.get $digit)))
    (call $answer-as (i32.const 1) (i32.const 128) (i32.add (i32.const 5) (i32.sub (i32.const 96) (local.get $digit)))))

  (func (export "lifeboat:vm/workload@0.1.0#execute")
    (param $id i32) (param $id-length i32) (param i32 i32) (param $sequence i64) (param i64) (param $body i32) (param $length i32) (result i32)
    (local $calls i32) (local $at i32) (local $status i32) (local $mark i32) (local $left i32)
    (local.set $calls (i32.sub (i32.load8_u (local.get $body)) (i32.const 48)))
    (local.set $mark (i32.load8_u offset=1 (local.get $body)))
    (local.set $body (i32.add (local.get $body) (i32.const 1)))
    (local.set $length (i32.sub (local.get $length) (i32.const 1)))
    ;; A host begins with a digit.
    (if (i32.or
          (i32.lt_u (local.get $mark) (i32.const 48))
          (i32.or (i32.eq (local.get $mark) (i32.const 61)) (i32.ge_u (local.get $mark) (i32.const 94))))
      (then
        (local.set $body (i32.add (local.get $body) (i32.const 1)))
        (local.set $length (i32.sub (local.get $length) (i32.const 1)))))
    (if (i32.eq (local.get $mark) (i32.const 35))
      (then
        (local.set $id-length
          (i32.sub (local.get $id-length) (i32.and (i32.wrap_i64 (local.get $sequence)) (i32.const 1))))))
    (block $calls-made
      (br_if $calls-made (i32.eqz (local.get $calls)))
      (loop $more
        (i32.store offset=256 (i32.mul (local.get $at) (i32.const 4))
          (call $post (local.get $id) (local.get $id-length) (local.get $body) (local.get $length)))
        (if (i32.eqz (i32.load offset=256 (i32.mul (local.get $at) (i32.const 4))))
          (then (i32.store8 (i32.const 536) (i32.load8_u (i32.const 520))) (return (call $refuse))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br_if $more (i32.lt_u (local.get $at) (local.get $calls))))
      (local.set $at (i32.const 0))
      (loop $more
        (call $wait (i32.load offset=256 (i32.mul (local.get $at) (i32.const 4))))
        (if (i32.load8_u (i32.const 528)) (then (return (call $refuse))))
        (local.set $status (call $status (i32.load (i32.const 536))))
        (call $drop-response (i32.load (i32.const 536)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br_if $more (i32.lt_u (local.get $at) (local.get $calls)))))
    (if (i32.eq (local.get $mark) (i32.const 33)) (then unreachable))
    (if (i32.eq (local.get $mark) (i32.const 94)) (then (drop (memory.grow (i32.const 200)))))
    (if (i32.eq (local.get $mark) (i32.const 61)) (then (loop $forever (br $forever))))
    (if (i32.eq (local.get $mark) (i32.const 126))
      (then
        (local.set $left (i32.const 100000))
        (loop $burn
          (local.set $left (i32.sub (local.get $left) (i32.const 1)))
          (br_if $burn (local.get $left)))))
    (global.set $count (i64.add (global.get $count) (i64.const 1)))
    (call $answer-number (i64.extend_i32_u (local.get $status))))

  (func (export "lifeboat:vm/workload@0.1.0#query")
    (param i32 i32 i32 i32 i64 i64) (param $body i32) (param $length i32) (result i32)
    (global.set $heap (i32.const 1024))
    (call $answer-number (global.get $count)))

  (func (export "lifeboat:vm/workload@0.1.0#state-version") (result i32) (i32.const 1))

  (func (export "lifeboat:vm/workload@0.1.0#snapshot") (result i32)
    (i64.store (i32.const 32) (global.get $count))
    (call $write (i32.const 32) (i32.const 8))
    (call $answer-as (i32.const 0) (i32.const 0) (i32.const 0)))

  ;; `read` may answer fewer bytes than asked for, and none at the end: then this traps.
  (func (export "lifeboat:vm/workload@0.1.0#restore") (param $version i32) (result i32)
    (local $have i32)
    (loop $more
      (call $read (i32.sub (i32.const 8) (local.get $have)) (i32.const 16))
      (if (i32.eqz (i32.load (i32.const 20))) (then unreachable))
      (memory.copy (i32.add (i32.const 32) (local.get $have)) (i32.load (i32.const 16)) (i32.load (i32.const 20)))
      (local.set $have (i32.add (local.get $have) (i32.load (i32.const 20))))
      (br_if $more (i32.lt_u (local.get $have) (i32.const 8))))
    (global.set $count (i64.load (i32.const 32)))
    (call $answer-as (i32.const 0) (i32.const 0) (i32.const 0)))

  ;; A bump allocator that each answer takes back.
  (func (export "cabi_realloc")
    (param $old i32) (param $old-length i32) (param $align i32) (param $length i32) (result i32)
    (local $start i32)
    (local.set $start
      (i32.and
        (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
    (global.set $heap (i32.add (local.get $start) (local.get $length)))
    (if (i32.gt_u (global.get $heap) (i32.const 131072)) (then unreachable))
    (memory.copy (local.get $start) (local.get $old) (local.get $old-length))
    (local.get $start)))
