;; Writes 100 bytes to each of the files `file-00` to `file-99` for any body. The files are those of the interface
;; `bench:guest/files`: `guests.rs` makes this module a component. The state is empty.
(module
  (import "bench:guest/files" "open" (func $open (param i32 i32) (result i64)))
  (import "bench:guest/files" "write" (func $write (param i64 i32 i32)))
  (import "bench:guest/files" "close" (func $close (param i64)))
  ;; 16 answer of an export, 64 the name, 128 what is written, from 1024 the heap.
  (memory (export "memory") 1)
  (data (i32.const 64) "file-00")
  (global $heap (mut i32) (i32.const 1024))

  (func $answer (result i32)
    (i32.store8 (i32.const 16) (i32.const 0))
    (i64.store (i32.const 20) (i64.const 0))
    (i32.const 16))

  (func (export "lifeboat:vm/workload@0.1.0#execute") (param i32 i32 i32 i32 i64 i64 i32 i32) (result i32)
    (local $index i32) (local $file i64)
    (global.set $heap (i32.const 1024))
    (loop $next
      (i32.store8 (i32.const 69) (i32.add (i32.const 48) (i32.div_u (local.get $index) (i32.const 10))))
      (i32.store8 (i32.const 70) (i32.add (i32.const 48) (i32.rem_u (local.get $index) (i32.const 10))))
      (local.set $file (call $open (i32.const 64) (i32.const 7)))
      (call $write (local.get $file) (i32.const 128) (i32.const 100))
      (call $close (local.get $file))
      (local.set $index (i32.add (local.get $index) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $index) (i32.const 100))))
    (call $answer))

  (func (export "lifeboat:vm/workload@0.1.0#query") (param i32 i32 i32 i32 i64 i64 i32 i32) (result i32)
    unreachable)

  (func (export "lifeboat:vm/workload@0.1.0#state-version") (result i32) (i32.const 1))

  (func (export "lifeboat:vm/workload@0.1.0#snapshot") (result i32)
    (call $answer))

  (func (export "lifeboat:vm/workload@0.1.0#restore") (param $version i32) (result i32)
    (call $answer))

  ;; A bump allocator that the next execute takes back.
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
