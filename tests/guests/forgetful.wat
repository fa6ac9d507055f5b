;; count.wat, but restore succeeds without reading anything: the count starts again, so a replay diverges. `boom`
;; traps.
(module
  (import "lifeboat:vm/state@0.1.0" "write" (func $write (param $chunk i32) (param $length i32)))
  (import "lifeboat:vm/state@0.1.0" "read" (func $read (param $max i32) (param $answer i32)))
  (memory (export "memory") 1)
  ;; 16 answer of an export or of `read`, 32 state, 64..96 digits, 128 texts, from 1024 the heap.
  (data (i32.const 128) "refuse")
  (data (i32.const 144) "refused on request")
  (data (i32.const 176) "boom")
  (global $heap (mut i32) (i32.const 1024))
  (global $count (mut i64) (i64.const 0))

  ;; Tells whether a body is the word at $word.
  (func $is (param $body i32) (param $length i32) (param $word i32) (param $letters i32) (result i32)
    (if (i32.ne (local.get $length) (local.get $letters)) (then (return (i32.const 0))))
    (block $differs
      (loop $next
        (if (i32.eqz (local.get $length)) (then (return (i32.const 1))))
        (br_if $differs (i32.ne (i32.load8_u (local.get $body)) (i32.load8_u (local.get $word))))
        (local.set $body (i32.add (local.get $body) (i32.const 1)))
        (local.set $word (i32.add (local.get $word) (i32.const 1)))
        (local.set $length (i32.sub (local.get $length) (i32.const 1)))
        (br $next)))
    (i32.const 0))

  ;; Answers `ok` or, if $failed is 1, `err` with some bytes.
  (func $answer (param $failed i32) (param $text i32) (param $length i32) (result i32)
    (i32.store8 (i32.const 16) (local.get $failed))
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
    (call $answer (i32.const 0) (local.get $digit) (i32.sub (i32.const 96) (local.get $digit))))

  (func (export "lifeboat:vm/workload@0.1.0#execute")
    (param i32 i32 i32 i32 i64 i64) (param $body i32) (param $length i32) (result i32)
    (global.set $heap (i32.const 1024))
    (if (call $is (local.get $body) (local.get $length) (i32.const 128) (i32.const 6))
      (then (return (call $answer (i32.const 1) (i32.const 144) (i32.const 18)))))
    (if (call $is (local.get $body) (local.get $length) (i32.const 176) (i32.const 4)) (then unreachable))
    (global.set $count (i64.add (global.get $count) (i64.const 1)))
    (call $answer_count))

  (func (export "lifeboat:vm/workload@0.1.0#query")
    (param i32 i32 i32 i32 i64 i64) (param $body i32) (param $length i32) (result i32)
    (global.set $heap (i32.const 1024))
    (call $answer_count))

  (func (export "lifeboat:vm/workload@0.1.0#state-version") (result i32) (i32.const 1))

  (func (export "lifeboat:vm/workload@0.1.0#snapshot") (result i32)
    (i64.store (i32.const 32) (global.get $count))
    (call $write (i32.const 32) (i32.const 8))
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
