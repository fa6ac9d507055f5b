;; count.wat, but execute uses WASI preview 1 for these bodies: `time` answers the clock in decimal, `sleep` sleeps for
;; a second and answers the clock, `nap` sleeps until a second past 1970 and answers the clock, `random` answers a random
;; number in decimal, `log` writes "hello" and a line feed to standard output, `exit` exits with 3. They count nothing.
;; `boom` traps, `flood` asks for 64 KiB of random numbers for ever.
(module
  (import "lifeboat:vm/state@0.1.0" "write" (func $write (param $chunk i32) (param $length i32)))
  (import "lifeboat:vm/state@0.1.0" "read" (func $read (param $max i32) (param $answer i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 5)
  ;; 256 a number from WASI, 272 an io vector, 320 a subscription, 384 an event.
  (data (i32.const 192) "time")
  (data (i32.const 196) "sleep")
  (data (i32.const 201) "nap")
  (data (i32.const 204) "random")
  (data (i32.const 210) "log")
  (data (i32.const 213) "exit")
  (data (i32.const 217) "boom")
  (data (i32.const 232) "flood")
  (data (i32.const 224) "hello\0a")
  ;; 16 answer of an export or of `read`, 32 state, 64..96 digits, 128 texts, 65536 what `flood` fills, from 262144 the heap.
  (data (i32.const 128) "refuse")
  (data (i32.const 144) "refused on request")
  (global $heap (mut i32) (i32.const 262144))
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
  (func $answer_count (result i32) (call $answer_number (global.get $count)))

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

  ;; Answers the wall clock, in nanoseconds since 1970.
  (func $answer_time (result i32)
    (if (call $clock (i32.const 0) (i64.const 1) (i32.const 256)) (then unreachable))
    (call $answer_number (i64.load (i32.const 256))))

  ;; Waits for the monotonic clock: for $timeout nanoseconds, or until then if $absolute is 1.
  (func $wait (param $timeout i64) (param $absolute i32)
    (i64.store (i32.const 320) (i64.const 0))
    (i32.store8 (i32.const 328) (i32.const 0))
    (i32.store (i32.const 336) (i32.const 1))
    (i64.store (i32.const 344) (local.get $timeout))
    (i64.store (i32.const 352) (i64.const 1))
    (i32.store16 (i32.const 360) (local.get $absolute))
    (if (call $poll (i32.const 320) (i32.const 384) (i32.const 1) (i32.const 256)) (then unreachable)))

  (func (export "lifeboat:vm/workload@0.1.0#execute")
    (param i32 i32 i32 i32 i64 i64) (param $body i32) (param $length i32) (result i32)
    (if (call $is (local.get $body) (local.get $length) (i32.const 128) (i32.const 6))
      (then (return (call $answer (i32.const 1) (i32.const 144) (i32.const 18)))))
    (if (call $is (local.get $body) (local.get $length) (i32.const 192) (i32.const 4))
      (then (return (call $answer_time))))
    (if (call $is (local.get $body) (local.get $length) (i32.const 196) (i32.const 5))
      (then (call $wait (i64.const 1000000000) (i32.const 0)) (return (call $answer_time))))
    (if (call $is (local.get $body) (local.get $length) (i32.const 201) (i32.const 3))
      (then (call $wait (i64.const 1000000000) (i32.const 1)) (return (call $answer_time))))
    (if (call $is (local.get $body) (local.get $length) (i32.const 204) (i32.const 6))
      (then
        (if (call $random (i32.const 256) (i32.const 8)) (then unreachable))
        (return (call $answer_number (i64.load (i32.const 256))))))
    (if (call $is (local.get $body) (local.get $length) (i32.const 210) (i32.const 3))
      (then
        (i32.store (i32.const 272) (i32.const 224))
        (i32.store (i32.const 276) (i32.const 6))
        (if (call $fd_write (i32.const 1) (i32.const 272) (i32.const 1) (i32.const 280)) (then unreachable))
        (return (call $answer_number (i64.load32_u (i32.const 280))))))
    (if (call $is (local.get $body) (local.get $length) (i32.const 213) (i32.const 4))
      (then (call $proc_exit (i32.const 3)) unreachable))
    (if (call $is (local.get $body) (local.get $length) (i32.const 217) (i32.const 4)) (then unreachable))
    (if (call $is (local.get $body) (local.get $length) (i32.const 232) (i32.const 5))
      (then (loop $again (drop (call $random (i32.const 65536) (i32.const 65536))) (br $again))))
    (global.set $count (i64.add (global.get $count) (i64.const 1)))
    (call $answer_count))

  (func (export "lifeboat:vm/workload@0.1.0#query")
    (param i32 i32 i32 i32 i64 i64) (param $body i32) (param $length i32) (result i32)
    (call $answer_count))

  (func (export "lifeboat:vm/workload@0.1.0#state-version") (result i32) (i32.const 1))

  (func (export "lifeboat:vm/workload@0.1.0#snapshot") (result i32)
    (i64.store (i32.const 32) (global.get $count))
    (call $write (i32.const 32) (i32.const 8))
    (call $answer (i32.const 0) (i32.const 0) (i32.const 0)))

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
    (call $answer (i32.const 0) (i32.const 0) (i32.const 0)))

  ;; A bump allocator that takes nothing back: the adapter keeps what it was given.
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
