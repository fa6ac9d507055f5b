;; A well-behaved counter for `lifeboat check`, and the base of the wrong guests in host/check/tests. Its state is one
;; number.
;;
;; execute  any body adds 1 and answers the count in decimal; a body that begins with `r` is refused and counts nothing
;; query    any body answers the count
;; snapshot 8 bytes, little-endian; restore reads them back, and refuses any version but 1
;;
;; Each function of one line below is what a wrong guest replaces. `extra` is where it puts its imports and globals.
(module
  (import "lifeboat:vm/state@0.1.0" "write" (func $write (param $chunk i32) (param $length i32)))
  (import "lifeboat:vm/state@0.1.0" "read" (func $read (param $max i32) (param $answer i32)))
  ;; extra
  (memory (export "memory") 20)
  ;; 16 answer of an export or of `read`, 32 state, 64..96 digits, 128 texts, 256..1024 for wrong guests, from 65536 the heap.
  ;; The longest body fits without growth, so that the memory of an adapter is never taken for the heap.
  (data (i32.const 128) "refused on request")
  (data (i32.const 160) "unknown version")
  (global $heap (mut i32) (i32.const 65536))
  (global $count (mut i64) (i64.const 0))

  (func $before_execute (param $length i32) (param $sequence i64) (param $timestamp i64) nop)
  (func $before_refusal nop)
  (func $before_query nop)
  (func $number (param $timestamp i64) (result i64) (global.get $count))
  (func $reply (param $timestamp i64) (result i32) (call $answer_number (call $number (local.get $timestamp))))
  (func $answer_of_query (result i32) (call $answer_number (global.get $count)))
  (func $version (result i32) (i32.const 1))
  (func $is_known (param $version i32) (result i32) (i32.eq (local.get $version) (i32.const 1)))
  (func $save (result i32) (call $write_count) (i32.const 0))
  (func $load (result i32) (call $read_count) (i32.const 0))

  ;; Answers `ok` or, if $failed is 1, `err` with some bytes.
  (func $answer (param $failed i32) (param $text i32) (param $length i32) (result i32)
    (i32.store8 (i32.const 16) (local.get $failed))
    (i32.store (i32.const 20) (local.get $text))
    (i32.store (i32.const 24) (local.get $length))
    (i32.const 16))

  ;; Answers `ok` with a number in decimal.
  (func $answer_number (param $rest i64) (result i32)
    (local $digit i32)
    (local.set $digit (i32.const 96))
    (loop $next
      (local.set $digit (i32.sub (local.get $digit) (i32.const 1)))
      (i32.store8 (local.get $digit)
        (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $rest) (i64.const 10)))))
      (local.set $rest (i64.div_u (local.get $rest) (i64.const 10)))
      (br_if $next (i64.ne (local.get $rest) (i64.const 0))))
    (call $answer (i32.const 0) (local.get $digit) (i32.sub (i32.const 96) (local.get $digit))))

  (func $write_count
    (i64.store (i32.const 32) (global.get $count))
    (call $write (i32.const 32) (i32.const 8)))

  ;; `read` may answer fewer bytes than asked for, and none at the end: then this traps.
  (func $read_count
    (local $have i32)
    (loop $more
      (call $read (i32.sub (i32.const 8) (local.get $have)) (i32.const 16))
      (if (i32.eqz (i32.load (i32.const 20))) (then unreachable))
      (memory.copy (i32.add (i32.const 32) (local.get $have)) (i32.load (i32.const 16)) (i32.load (i32.const 20)))
      (local.set $have (i32.add (local.get $have) (i32.load (i32.const 20))))
      (br_if $more (i32.lt_u (local.get $have) (i32.const 8))))
    (global.set $count (i64.load (i32.const 32))))

  (func (export "lifeboat:vm/workload@0.1.0#execute")
    (param i32 i32 i32 i32) (param $sequence i64) (param $timestamp i64) (param $body i32) (param $length i32) (result i32)
    (global.set $heap (i32.const 65536))
    (if (local.get $length)
      (then
        (if (i32.eq (i32.load8_u (local.get $body)) (i32.const 114))
          (then
            (call $before_refusal)
            (return (call $answer (i32.const 1) (i32.const 128) (i32.const 18)))))))
    (call $before_execute (local.get $length) (local.get $sequence) (local.get $timestamp))
    (global.set $count (i64.add (global.get $count) (i64.const 1)))
    (call $reply (local.get $timestamp)))

  (func (export "lifeboat:vm/workload@0.1.0#query")
    (param i32 i32 i32 i32 i64 i64) (param $body i32) (param $length i32) (result i32)
    (global.set $heap (i32.const 65536))
    (call $before_query)
    (call $answer_of_query))

  (func (export "lifeboat:vm/workload@0.1.0#state-version") (result i32) (call $version))

  ;; A result other than 0 is an error.
  (func (export "lifeboat:vm/workload@0.1.0#snapshot") (result i32)
    (call $answer (call $save) (i32.const 160) (i32.const 15)))

  (func (export "lifeboat:vm/workload@0.1.0#restore") (param $version i32) (result i32)
    (if (i32.eqz (call $is_known (local.get $version)))
      (then (return (call $answer (i32.const 1) (i32.const 160) (i32.const 15)))))
    (call $answer (call $load) (i32.const 160) (i32.const 15)))

  ;; A bump allocator that the next execute or query takes back. The adapter of preview 1 keeps the page that it asks for.
  (func $allocate (export "cabi_realloc")
    (param $old i32) (param $old_length i32) (param $align i32) (param $length i32) (result i32)
    (local $start i32)
    (if (i32.eq (local.get $length) (i32.const 65536))
      (then (return (i32.shl (memory.grow (i32.const 1)) (i32.const 16)))))
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
