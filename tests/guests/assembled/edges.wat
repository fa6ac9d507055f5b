;; Goes as near to each limit as its body says, which is a letter and a number in decimal: `s` calls itself so often, `f`
;; runs so many rounds of a loop, `m` takes so many pages of memory, `t` so many elements of a table, `h` makes so many
;; pollables and drops them, `l` logs so many bytes, `d` sleeps for so many nanoseconds. These count, and answer the count
;; in decimal. `r` counts as well, and answers so many bytes. Any other body answers the count.
;;
;; WASI 0.2 is imported by its canonical names: tests make it a component of the world in `everything.wit`.
(module
  (import "lifeboat:vm/state@0.1.0" "write" (func $write (param $chunk i32) (param $length i32)))
  (import "lifeboat:vm/state@0.1.0" "read" (func $read (param $max i32) (param $answer i32)))
  (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $subscribe (param i64) (result i32)))
  (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
  (import "wasi:io/poll@0.2.0" "[resource-drop]pollable" (func $drop-pollable (param i32)))
  (import "wasi:cli/stdout@0.2.0" "get-stdout" (func $get-stdout (result i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.write" (func $log (param i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.0" "[resource-drop]output-stream" (func $drop-stream (param i32)))
  ;; 16 answer of an export, 32 state, 48 answer of an import, 64..96 digits, from 1024 the heap, from 64 KiB handles, from 1 MiB nothing.
  (memory (export "memory") 80)
  (table $table 0 funcref)
  (global $heap (mut i32) (i32.const 1024))
  (global $count (mut i64) (i64.const 0))

  ;; Answers the count in decimal.
  (func $answer (result i32)
    (local $rest i64) (local $digit i32)
    (local.set $rest (global.get $count))
    (local.set $digit (i32.const 96))
    (loop $next
      (local.set $digit (i32.sub (local.get $digit) (i32.const 1)))
      (i32.store8 (local.get $digit)
        (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $rest) (i64.const 10)))))
      (local.set $rest (i64.div_u (local.get $rest) (i64.const 10)))
      (br_if $next (i64.ne (local.get $rest) (i64.const 0))))
    (i32.store (i32.const 16) (i32.const 0))
    (i32.store (i32.const 20) (local.get $digit))
    (i32.store (i32.const 24) (i32.sub (i32.const 96) (local.get $digit)))
    (i32.const 16))

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

  ;; Calls itself, and has something to do afterwards.
  (func $deep (param $left i32) (result i32)
    (if (i32.eqz (local.get $left)) (then (return (i32.const 0))))
    (i32.add (i32.const 1) (call $deep (i32.sub (local.get $left) (i32.const 1)))))

  (func $rounds (param $left i32)
    (block $done
      (loop $round
        (br_if $done (i32.eqz (local.get $left)))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br $round))))

  (func $handles (param $number i32)
    (local $place i32) (local $end i32)
    (local.set $place (i32.const 65536))
    (local.set $end (i32.add (local.get $place) (i32.mul (local.get $number) (i32.const 4))))
    (block $made
      (loop $next
        (br_if $made (i32.eq (local.get $place) (local.get $end)))
        (i32.store (local.get $place) (call $subscribe (i64.const 0)))
        (local.set $place (i32.add (local.get $place) (i32.const 4)))
        (br $next)))
    (local.set $place (i32.const 65536))
    (block $dropped
      (loop $next
        (br_if $dropped (i32.eq (local.get $place) (local.get $end)))
        (call $drop-pollable (i32.load (local.get $place)))
        (local.set $place (i32.add (local.get $place) (i32.const 4)))
        (br $next))))

  (func $sleep (param $nanoseconds i64)
    (local $pollable i32)
    (local.set $pollable (call $subscribe (local.get $nanoseconds)))
    (call $block (local.get $pollable))
    (call $drop-pollable (local.get $pollable)))

  (func $say (param $length i32)
    (local $stream i32)
    (local.set $stream (call $get-stdout))
    (call $log (local.get $stream) (i32.const 1048576) (local.get $length) (i32.const 48))
    (call $drop-stream (local.get $stream)))

  (func (export "lifeboat:vm/workload@0.1.0#execute")
    (param i32 i32 i32 i32 i64 i64) (param $body i32) (param $length i32) (result i32)
    (local $letter i32) (local $number i32)
    (global.set $heap (i32.const 1024))
    (local.set $letter (i32.load8_u (local.get $body)))
    (local.set $number
      (call $number (i32.add (local.get $body) (i32.const 1)) (i32.sub (local.get $length) (i32.const 1))))
    (global.set $count (i64.add (global.get $count) (i64.const 1)))
    (if (i32.eq (local.get $letter) (i32.const 115)) (then (drop (call $deep (local.get $number)))))
    (if (i32.eq (local.get $letter) (i32.const 102)) (then (call $rounds (local.get $number))))
    (if (i32.eq (local.get $letter) (i32.const 109)) (then (drop (memory.grow (local.get $number)))))
    (if (i32.eq (local.get $letter) (i32.const 116))
      (then (drop (table.grow $table (ref.null func) (local.get $number)))))
    (if (i32.eq (local.get $letter) (i32.const 104)) (then (call $handles (local.get $number))))
    (if (i32.eq (local.get $letter) (i32.const 108)) (then (call $say (local.get $number))))
    (if (i32.eq (local.get $letter) (i32.const 100)) (then (call $sleep (i64.extend_i32_u (local.get $number)))))
    (if (i32.eq (local.get $letter) (i32.const 114))
      (then
        (i32.store (i32.const 16) (i32.const 0))
        (i32.store (i32.const 20) (i32.const 1048576))
        (i32.store (i32.const 24) (local.get $number))
        (return (i32.const 16))))
    (call $answer))

  (func (export "lifeboat:vm/workload@0.1.0#query")
    (param i32 i32 i32 i32 i64 i64) (param $body i32) (param $length i32) (result i32)
    (global.set $heap (i32.const 1024))
    (call $answer))

  (func (export "lifeboat:vm/workload@0.1.0#state-version") (result i32) (i32.const 1))

  (func (export "lifeboat:vm/workload@0.1.0#snapshot") (result i32)
    (i64.store (i32.const 32) (global.get $count))
    (call $write (i32.const 32) (i32.const 8))
    (i32.store8 (i32.const 16) (i32.const 0))
    (i32.const 16))

  (func (export "lifeboat:vm/workload@0.1.0#restore") (param $version i32) (result i32)
    (call $read (i32.const 8) (i32.const 48))
    (if (i32.ne (i32.load (i32.const 52)) (i32.const 8)) (then unreachable))
    (global.set $count (i64.load (i32.load (i32.const 48))))
    (i32.store8 (i32.const 16) (i32.const 0))
    (i32.const 16))

  ;; A bump allocator that the next execute or query takes back.
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
