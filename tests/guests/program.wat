;; A program in WASI preview 1. Its first byte of standard input says what it does; the rest is TEXT:
;;   e TEXT  writes TEXT to standard output
;;   a TEXT  appends TEXT to the file `log`, and writes the whole file to standard output
;;   r       writes the file `log` to standard output
;;   x TEXT  appends TEXT to `log`, writes TEXT to standard error, and exits with 33
;;   t TEXT  appends TEXT to `log`, and traps
;;   m       grows its memory by 16 pages, overwrites all of it from 80 KiB on, and writes `m` to standard output
;;   v       writes its arguments and its environment to standard output, each ended by a zero byte
;;   s       loops for ever
;;   y       writes `y` and a line feed for ever, and ignores errors
;;   c       writes the two clocks and 8 random bytes, 24 bytes in all
;; Any other byte: exits with the code that it is. The directory is the first preopen.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 2)
  ;; 0..8: an iovec; 8: the bytes moved; 12: a descriptor; 16..24: sizes; 64: the name of the file; 128: `y\n`
  ;; 1024..: pointers; 4096..: what was read, up to 64 KiB
  (data (i32.const 64) "log")
  (data (i32.const 128) "y\n")

  ;; Ends the program with 90 and more if a call failed.
  (func $must (param $errno i32)
    (if (local.get $errno) (then (call $proc_exit (i32.add (i32.const 90) (local.get $errno))))))

  (func $write (param $fd i32) (param $at i32) (param $len i32)
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $len)))
        (i32.store (i32.const 0) (local.get $at))
        (i32.store (i32.const 4) (local.get $len))
        (call $must (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))
        (local.set $at (i32.add (local.get $at) (i32.load (i32.const 8))))
        (local.set $len (i32.sub (local.get $len) (i32.load (i32.const 8))))
        (br $next))))

  ;; Reads to the end, and returns how much.
  (func $read (param $fd i32) (result i32)
    (local $len i32)
    (block $done
      (loop $next
        (i32.store (i32.const 0) (i32.add (i32.const 4096) (local.get $len)))
        (i32.store (i32.const 4) (i32.sub (i32.const 65536) (local.get $len)))
        (call $must (call $fd_read (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))
        (br_if $done (i32.eqz (i32.load (i32.const 8))))
        (local.set $len (i32.add (local.get $len) (i32.load (i32.const 8))))
        (br $next)))
    (local.get $len))

  ;; Opens `log`, and returns its descriptor. Flags: 1 creates, and 1 appends.
  (func $open (param $create i32) (param $append i32) (result i32)
    (call $must (call $path_open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 3) (local.get $create)
      (i64.const 0x42) (i64.const 0) (local.get $append) (i32.const 12)))
    (i32.load (i32.const 12)))

  (func $append (param $len i32)
    (local $fd i32)
    (local.set $fd (call $open (i32.const 1) (i32.const 1)))
    (call $write (local.get $fd) (i32.const 4097) (i32.sub (local.get $len) (i32.const 1)))
    (call $must (call $fd_close (local.get $fd))))

  (func $show_log
    (call $write (i32.const 1) (i32.const 4096) (call $read (call $open (i32.const 0) (i32.const 0)))))

  (func (export "_start")
    (local $len i32)
    (local $what i32)
    (local.set $len (call $read (i32.const 0)))
    (local.set $what (i32.load8_u (i32.const 4096)))
    (if (i32.eq (local.get $what) (i32.const 101)) ;; e
      (then (call $write (i32.const 1) (i32.const 4097) (i32.sub (local.get $len) (i32.const 1))) (return)))
    (if (i32.eq (local.get $what) (i32.const 97)) ;; a
      (then (call $append (local.get $len)) (call $show_log) (return)))
    (if (i32.eq (local.get $what) (i32.const 114)) ;; r
      (then (call $show_log) (return)))
    (if (i32.eq (local.get $what) (i32.const 120)) ;; x
      (then
        (call $append (local.get $len))
        (call $write (i32.const 2) (i32.const 4097) (i32.sub (local.get $len) (i32.const 1)))
        (call $proc_exit (i32.const 33))))
    (if (i32.eq (local.get $what) (i32.const 116)) ;; t
      (then (call $append (local.get $len)) unreachable))
    (if (i32.eq (local.get $what) (i32.const 109)) ;; m
      (then
        (drop (memory.grow (i32.const 16)))
        (memory.fill (i32.const 81920) (i32.const 255)
          (i32.sub (i32.shl (memory.size) (i32.const 16)) (i32.const 81920)))
        (call $write (i32.const 1) (i32.const 4096) (i32.const 1))
        (return)))
    (if (i32.eq (local.get $what) (i32.const 118)) ;; v
      (then
        (call $must (call $args_sizes_get (i32.const 16) (i32.const 20)))
        (call $must (call $args_get (i32.const 1024) (i32.const 4096)))
        (call $write (i32.const 1) (i32.const 4096) (i32.load (i32.const 20)))
        (call $must (call $environ_sizes_get (i32.const 16) (i32.const 20)))
        (call $must (call $environ_get (i32.const 1024) (i32.const 4096)))
        (call $write (i32.const 1) (i32.const 4096) (i32.load (i32.const 20)))
        (return)))
    (if (i32.eq (local.get $what) (i32.const 115)) ;; s
      (then (loop $for_ever (br $for_ever))))
    (if (i32.eq (local.get $what) (i32.const 121)) ;; y
      (then
        (loop $for_ever
          (i32.store (i32.const 0) (i32.const 128))
          (i32.store (i32.const 4) (i32.const 2))
          (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
          (br $for_ever))))
    (if (i32.eq (local.get $what) (i32.const 99)) ;; c
      (then
        (call $must (call $clock_time_get (i32.const 0) (i64.const 1) (i32.const 4096)))
        (call $must (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 4104)))
        (call $must (call $random_get (i32.const 4112) (i32.const 8)))
        (call $write (i32.const 1) (i32.const 4096) (i32.const 24))
        (return)))
    (call $proc_exit (local.get $what))))
