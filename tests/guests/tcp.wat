;; A program of WASI 0.2 that uses TCP. Its first byte of standard input says what it does. ADDRESS is an IPv4 address and a
;; port, the lowest byte first: 6 bytes.
;;   c ADDRESS TEXT  connects, sends TEXT, ends its side, and writes what it receives to standard output
;;   n PORT LENGTH NAME TEXT  does the same with the first address of NAME; PORT has 2 bytes, LENGTH one
;;   w ADDRESS       connects, and sends for ever
;;   2 ADDRESS       connects twice
;;   f ADDRESS       connects, sends as much as it can at once, writes the number of bytes in decimal and a line feed, and
;;                   ends
;;   t ADDRESS       connects, and polls what it receives and a timer of 50 ms; writes which is ready, `0` or `1`
;;   T ADDRESS       does the same with a timer of an hour
;;   s               creates sockets up to an error, writes how many in decimal, and `E` and the error as below
;;   l               binds to any address, and writes the error with which a listen begins; then the error of a bind to
;;                   127.0.0.1
;;   u               writes the error with which a socket for UDP is created
;; An error ends it with exit code 1. It writes `E` and a letter: `a` for the first code of `wasi:sockets/network`, and so on.
(component
  (import "wasi:io/error@0.2.0" (instance $io-error (export "error" (type (sub resource)))))
  (alias export $io-error "error" (type $error))
  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $pollable (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $pollable))))
    (export "poll" (func (param "in" (list (borrow $pollable))) (result (list u32))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (alias outer 1 $error (type $outer-error))
    (export "error" (type $error (eq $outer-error)))
    (alias outer 1 $pollable (type $outer-pollable))
    (export "pollable" (type $pollable (eq $outer-pollable)))
    (export "input-stream" (type $in (sub resource)))
    (export "output-stream" (type $out (sub resource)))
    (type $failures (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $failure (eq $failures)))
    (export "[method]input-stream.blocking-read"
      (func (param "self" (borrow $in)) (param "len" u64) (result (result (list u8) (error $failure)))))
    (export "[method]input-stream.subscribe" (func (param "self" (borrow $in)) (result (own $pollable))))
    (export "[method]output-stream.check-write"
      (func (param "self" (borrow $out)) (result (result u64 (error $failure)))))
    (export "[method]output-stream.write"
      (func (param "self" (borrow $out)) (param "contents" (list u8)) (result (result (error $failure)))))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $out)) (param "contents" (list u8)) (result (result (error $failure)))))))
  (alias export $streams "input-stream" (type $in))
  (alias export $streams "output-stream" (type $out))
  (import "wasi:cli/stdin@0.2.0" (instance $stdin
    (alias outer 1 $in (type $outer-in))
    (export "input-stream" (type $in (eq $outer-in)))
    (export "get-stdin" (func (result (own $in))))))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $out (type $outer-out))
    (export "output-stream" (type $out (eq $outer-out)))
    (export "get-stdout" (func (result (own $out))))))
  (import "wasi:cli/exit@0.2.0" (instance $exit (export "exit" (func (param "status" (result))))))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (alias outer 1 $pollable (type $outer-pollable))
    (export "pollable" (type $pollable (eq $outer-pollable)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
  (import "wasi:sockets/network@0.2.3" (instance $network
    (export "network" (type (sub resource)))
    (type $codes (enum "unknown" "access-denied" "not-supported" "invalid-argument" "out-of-memory" "timeout"
      "concurrency-conflict" "not-in-progress" "would-block" "invalid-state" "new-socket-limit" "address-not-bindable"
      "address-in-use" "remote-unreachable" "connection-refused" "connection-reset" "connection-aborted"
      "datagram-too-large" "name-unresolvable" "temporary-resolver-failure" "permanent-resolver-failure"))
    (export "error-code" (type (eq $codes)))
    (type $families (enum "ipv4" "ipv6"))
    (export "ip-address-family" (type (eq $families)))
    (type $v4 (tuple u8 u8 u8 u8))
    (type $v6 (tuple u16 u16 u16 u16 u16 u16 u16 u16))
    (type $addresses (variant (case "ipv4" $v4) (case "ipv6" $v6)))
    (export "ip-address" (type (eq $addresses)))
    (type $v4-sockets (record (field "port" u16) (field "address" $v4)))
    (export "ipv4-socket-address" (type $v4-socket (eq $v4-sockets)))
    (type $v6-sockets
      (record (field "port" u16) (field "flow-info" u32) (field "address" $v6) (field "scope-id" u32)))
    (export "ipv6-socket-address" (type $v6-socket (eq $v6-sockets)))
    (type $sockets (variant (case "ipv4" $v4-socket) (case "ipv6" $v6-socket)))
    (export "ip-socket-address" (type (eq $sockets)))))
  (alias export $network "network" (type $net))
  (alias export $network "error-code" (type $code))
  (alias export $network "ip-address-family" (type $family))
  (alias export $network "ip-address" (type $ip))
  (alias export $network "ip-socket-address" (type $address))
  (import "wasi:sockets/instance-network@0.2.3" (instance $instance-network
    (alias outer 1 $net (type $outer))
    (export "network" (type $net (eq $outer)))
    (export "instance-network" (func (result (own $net))))))
  (import "wasi:sockets/tcp@0.2.3" (instance $tcp
    (alias outer 1 $in (type $outer-in))
    (export "input-stream" (type $in (eq $outer-in)))
    (alias outer 1 $out (type $outer-out))
    (export "output-stream" (type $out (eq $outer-out)))
    (alias outer 1 $pollable (type $outer-pollable))
    (export "pollable" (type $pollable (eq $outer-pollable)))
    (alias outer 1 $net (type $outer-net))
    (export "network" (type $net (eq $outer-net)))
    (alias outer 1 $code (type $outer-code))
    (export "error-code" (type $code (eq $outer-code)))
    (alias outer 1 $address (type $outer-address))
    (export "ip-socket-address" (type $address (eq $outer-address)))
    (type $shutdowns (enum "receive" "send" "both"))
    (export "shutdown-type" (type $shutdown (eq $shutdowns)))
    (export "tcp-socket" (type $socket (sub resource)))
    (export "[method]tcp-socket.start-bind" (func (param "self" (borrow $socket))
      (param "network" (borrow $net)) (param "local-address" $address) (result (result (error $code)))))
    (export "[method]tcp-socket.finish-bind" (func (param "self" (borrow $socket)) (result (result (error $code)))))
    (export "[method]tcp-socket.start-connect" (func (param "self" (borrow $socket))
      (param "network" (borrow $net)) (param "remote-address" $address) (result (result (error $code)))))
    (export "[method]tcp-socket.finish-connect"
      (func (param "self" (borrow $socket)) (result (result (tuple (own $in) (own $out)) (error $code)))))
    (export "[method]tcp-socket.start-listen" (func (param "self" (borrow $socket)) (result (result (error $code)))))
    (export "[method]tcp-socket.subscribe" (func (param "self" (borrow $socket)) (result (own $pollable))))
    (export "[method]tcp-socket.shutdown"
      (func (param "self" (borrow $socket)) (param "shutdown-type" $shutdown) (result (result (error $code)))))))
  (alias export $tcp "tcp-socket" (type $socket))
  (import "wasi:sockets/tcp-create-socket@0.2.3" (instance $create
    (alias outer 1 $code (type $outer-code))
    (export "error-code" (type $code (eq $outer-code)))
    (alias outer 1 $family (type $outer-family))
    (export "ip-address-family" (type $family (eq $outer-family)))
    (alias outer 1 $socket (type $outer-socket))
    (export "tcp-socket" (type $socket (eq $outer-socket)))
    (export "create-tcp-socket"
      (func (param "address-family" $family) (result (result (own $socket) (error $code)))))))
  (import "wasi:sockets/ip-name-lookup@0.2.3" (instance $lookup
    (alias outer 1 $pollable (type $outer-pollable))
    (export "pollable" (type $pollable (eq $outer-pollable)))
    (alias outer 1 $net (type $outer-net))
    (export "network" (type $net (eq $outer-net)))
    (alias outer 1 $code (type $outer-code))
    (export "error-code" (type $code (eq $outer-code)))
    (alias outer 1 $ip (type $outer-ip))
    (export "ip-address" (type $ip (eq $outer-ip)))
    (export "resolve-address-stream" (type $found (sub resource)))
    (export "[method]resolve-address-stream.resolve-next-address"
      (func (param "self" (borrow $found)) (result (result (option $ip) (error $code)))))
    (export "[method]resolve-address-stream.subscribe"
      (func (param "self" (borrow $found)) (result (own $pollable))))
    (export "resolve-addresses"
      (func (param "network" (borrow $net)) (param "name" string) (result (result (own $found) (error $code)))))))
  (import "wasi:sockets/udp@0.2.3" (instance $udp (export "udp-socket" (type (sub resource)))))
  (alias export $udp "udp-socket" (type $udp-socket))
  (import "wasi:sockets/udp-create-socket@0.2.3" (instance $create-udp
    (alias outer 1 $code (type $outer-code))
    (export "error-code" (type $code (eq $outer-code)))
    (alias outer 1 $family (type $outer-family))
    (export "ip-address-family" (type $family (eq $outer-family)))
    (alias outer 1 $udp-socket (type $outer-socket))
    (export "udp-socket" (type $socket (eq $outer-socket)))
    (export "create-udp-socket"
      (func (param "address-family" $family) (result (result (own $socket) (error $code)))))))

  ;; 0..64: answers; 64: digits; 96: what is written; 1024: pollables; 4096..: a part of a stream, at most 64 KiB;
  ;; 131072..: standard input, at most 128 KiB.
  (core module $heap
    (memory (export "memory") 5)
    ;; Every list has its place: the next one replaces it.
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096)))
  (core instance $heap (instantiate $heap))
  (alias core export $heap "memory" (core memory $memory))
  (alias core export $heap "cabi_realloc" (core func $realloc))

  (core func $block (canon lower (func $poll "[method]pollable.block")))
  (core func $poll (canon lower (func $poll "poll") (memory $memory) (realloc $realloc)))
  (core func $read
    (canon lower (func $streams "[method]input-stream.blocking-read") (memory $memory) (realloc $realloc)))
  (core func $subscribe-in (canon lower (func $streams "[method]input-stream.subscribe")))
  (core func $check-write (canon lower (func $streams "[method]output-stream.check-write") (memory $memory)))
  (core func $write (canon lower (func $streams "[method]output-stream.write") (memory $memory)))
  (core func $write-and-flush
    (canon lower (func $streams "[method]output-stream.blocking-write-and-flush") (memory $memory)))
  (core func $get-stdin (canon lower (func $stdin "get-stdin")))
  (core func $get-stdout (canon lower (func $stdout "get-stdout")))
  (core func $exit (canon lower (func $exit "exit")))
  (core func $subscribe-duration (canon lower (func $clock "subscribe-duration")))
  (core func $instance-network (canon lower (func $instance-network "instance-network")))
  (core func $create (canon lower (func $create "create-tcp-socket") (memory $memory)))
  (core func $create-udp (canon lower (func $create-udp "create-udp-socket") (memory $memory)))
  (core func $start-bind (canon lower (func $tcp "[method]tcp-socket.start-bind") (memory $memory)))
  (core func $finish-bind (canon lower (func $tcp "[method]tcp-socket.finish-bind") (memory $memory)))
  (core func $start-connect (canon lower (func $tcp "[method]tcp-socket.start-connect") (memory $memory)))
  (core func $finish-connect (canon lower (func $tcp "[method]tcp-socket.finish-connect") (memory $memory)))
  (core func $start-listen (canon lower (func $tcp "[method]tcp-socket.start-listen") (memory $memory)))
  (core func $subscribe (canon lower (func $tcp "[method]tcp-socket.subscribe")))
  (core func $shutdown (canon lower (func $tcp "[method]tcp-socket.shutdown") (memory $memory)))
  (core func $resolve (canon lower (func $lookup "resolve-addresses") (memory $memory)))
  (core func $next
    (canon lower (func $lookup "[method]resolve-address-stream.resolve-next-address") (memory $memory)))
  (core func $subscribe-found (canon lower (func $lookup "[method]resolve-address-stream.subscribe")))

  (core module $program
    (import "heap" "memory" (memory 5))
    (import "host" "block" (func $block (param i32)))
    (import "host" "poll" (func $poll (param i32 i32 i32)))
    (import "host" "read" (func $read (param i32 i64 i32)))
    (import "host" "subscribe-in" (func $subscribe_in (param i32) (result i32)))
    (import "host" "check-write" (func $check_write (param i32 i32)))
    (import "host" "write" (func $write (param i32 i32 i32 i32)))
    (import "host" "write-and-flush" (func $write_and_flush (param i32 i32 i32 i32)))
    (import "host" "get-stdin" (func $get_stdin (result i32)))
    (import "host" "get-stdout" (func $get_stdout (result i32)))
    (import "host" "exit" (func $exit (param i32)))
    (import "host" "subscribe-duration" (func $subscribe_duration (param i64) (result i32)))
    (import "host" "instance-network" (func $instance_network (result i32)))
    (import "host" "create" (func $create (param i32 i32)))
    (import "host" "create-udp" (func $create_udp (param i32 i32)))
    (import "host" "start-bind"
      (func $start_bind (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
    (import "host" "finish-bind" (func $finish_bind (param i32 i32)))
    (import "host" "start-connect"
      (func $start_connect (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
    (import "host" "finish-connect" (func $finish_connect (param i32 i32)))
    (import "host" "start-listen" (func $start_listen (param i32 i32)))
    (import "host" "subscribe" (func $subscribe (param i32) (result i32)))
    (import "host" "shutdown" (func $shutdown (param i32 i32 i32)))
    (import "host" "resolve" (func $resolve (param i32 i32 i32 i32)))
    (import "host" "next" (func $next (param i32 i32)))
    (import "host" "subscribe-found" (func $subscribe_found (param i32) (result i32)))
    (global $stdout (mut i32) (i32.const 0))
    (global $len (mut i32) (i32.const 0))
    (global $socket (mut i32) (i32.const 0))
    (global $in (mut i32) (i32.const 0))
    (global $out (mut i32) (i32.const 0))

    ;; Writes all bytes, and returns whether that failed.
    (func $send (param $stream i32) (param $at i32) (param $len i32) (result i32)
      (local $part i32)
      (block $done
        (loop $next
          (br_if $done (i32.eqz (local.get $len)))
          (local.set $part (local.get $len))
          (if (i32.gt_u (local.get $part) (i32.const 4096)) (then (local.set $part (i32.const 4096))))
          (call $write_and_flush (local.get $stream) (local.get $at) (local.get $part) (i32.const 0))
          (if (i32.load8_u (i32.const 0)) (then (return (i32.const 1))))
          (local.set $at (i32.add (local.get $at) (local.get $part)))
          (local.set $len (i32.sub (local.get $len) (local.get $part)))
          (br $next)))
      (i32.const 0))

    (func $print (param $at i32) (param $len i32)
      (if (call $send (global.get $stdout) (local.get $at) (local.get $len)) (then unreachable)))

    (func $print_number (param $number i32)
      (local $digit i32)
      (local.set $digit (i32.const 96))
      (loop $next
        (local.set $digit (i32.sub (local.get $digit) (i32.const 1)))
        (i32.store8 (local.get $digit) (i32.add (i32.const 48) (i32.rem_u (local.get $number) (i32.const 10))))
        (local.set $number (i32.div_u (local.get $number) (i32.const 10)))
        (br_if $next (local.get $number)))
      (call $print (local.get $digit) (i32.sub (i32.const 96) (local.get $digit))))

    (func $print_error (param $code i32)
      (i32.store8 (i32.const 96) (i32.const 69))
      (i32.store8 (i32.const 97) (i32.add (i32.const 97) (local.get $code)))
      (call $print (i32.const 96) (i32.const 2)))

    ;; Ends the program if the answer at 0 is an error, whose code is at $at.
    (func $must (param $at i32)
      (if (i32.load8_u (i32.const 0))
        (then
          (call $print_error (i32.load8_u (local.get $at)))
          (call $exit (i32.const 1))
          unreachable)))

    ;; Creates a socket, or ends the program.
    (func $new_socket (result i32)
      (call $create (i32.const 0) (i32.const 0))
      (call $must (i32.const 4))
      (i32.load (i32.const 4)))

    ;; Connects to the address at $at and the port at $port.
    (func $connect (param $at i32) (param $port i32)
      (global.set $socket (call $new_socket))
      (call $start_connect (global.get $socket) (call $instance_network) (i32.const 0)
        (i32.load16_u (local.get $port)) (i32.load8_u (local.get $at)) (i32.load8_u offset=1 (local.get $at))
        (i32.load8_u offset=2 (local.get $at)) (i32.load8_u offset=3 (local.get $at))
        (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
        (i32.const 0))
      (call $must (i32.const 1))
      (call $block (call $subscribe (global.get $socket)))
      (call $finish_connect (global.get $socket) (i32.const 0))
      (call $must (i32.const 4))
      (global.set $in (i32.load (i32.const 4)))
      (global.set $out (i32.load (i32.const 8))))

    ;; Sends the rest of standard input from $at on, and writes what it receives.
    (func $exchange (param $at i32)
      (drop (call $send (global.get $out) (local.get $at)
        (i32.sub (i32.add (i32.const 131072) (global.get $len)) (local.get $at))))
      (call $shutdown (global.get $socket) (i32.const 1) (i32.const 0))
      (call $must (i32.const 1))
      (block $closed
        (loop $next
          (call $read (global.get $in) (i64.const 65536) (i32.const 0))
          (br_if $closed (i32.load8_u (i32.const 0)))
          (call $print (i32.load (i32.const 4)) (i32.load (i32.const 8)))
          (br $next))))

    ;; Looks up a name, and writes its first address of IPv4 at 32.
    (func $look_up (param $at i32) (param $len i32)
      (local $found i32)
      (call $resolve (call $instance_network) (local.get $at) (local.get $len) (i32.const 0))
      (call $must (i32.const 4))
      (local.set $found (i32.load (i32.const 4)))
      (call $block (call $subscribe_found (local.get $found)))
      (loop $next
        (call $next (local.get $found) (i32.const 0))
        (call $must (i32.const 2))
        (if (i32.eqz (i32.load8_u (i32.const 2))) (then unreachable))
        (br_if $next (i32.load8_u (i32.const 4))))
      (i32.store (i32.const 32) (i32.load align=1 (i32.const 6))))

    ;; Sends up to the moment at which the stream takes no more, and returns how much.
    (func $fill (result i32)
      (local $sent i32)
      (local $permit i32)
      (block $full
        (loop $next
          (call $check_write (global.get $out) (i32.const 0))
          (if (i32.load8_u (i32.const 0)) (then unreachable))
          (local.set $permit (i32.load (i32.const 8)))
          (br_if $full (i32.eqz (local.get $permit)))
          (if (i32.gt_u (local.get $permit) (i32.const 65536)) (then unreachable))
          (call $write (global.get $out) (i32.const 4096) (local.get $permit) (i32.const 0))
          (if (i32.load8_u (i32.const 0)) (then unreachable))
          (local.set $sent (i32.add (local.get $sent) (local.get $permit)))
          (br $next)))
      (local.get $sent))

    (func $poll_both (param $timer_ns i64)
      (call $connect (i32.const 131073) (i32.const 131077))
      (i32.store (i32.const 1024) (call $subscribe_in (global.get $in)))
      (i32.store (i32.const 1028) (call $subscribe_duration (local.get $timer_ns)))
      (call $poll (i32.const 1024) (i32.const 2) (i32.const 0))
      (call $print_number (i32.load (i32.load (i32.const 0)))))

    (func $bind_and_listen
      (local $socket i32)
      (local.set $socket (call $new_socket))
      (call $start_bind (local.get $socket) (call $instance_network) (i32.const 0) (i32.const 0)
        (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
        (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
      (call $must (i32.const 1))
      (call $finish_bind (local.get $socket) (i32.const 0))
      (call $must (i32.const 1))
      (call $start_listen (local.get $socket) (i32.const 0))
      (if (i32.eqz (i32.load8_u (i32.const 0))) (then unreachable))
      (call $print_error (i32.load8_u (i32.const 1)))
      (call $start_bind (call $new_socket) (call $instance_network) (i32.const 0) (i32.const 0)
        (i32.const 127) (i32.const 0) (i32.const 0) (i32.const 1)
        (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
      (call $must (i32.const 1)))

    ;; Reads standard input to its end.
    (func $read_all
      (local $stdin i32)
      (local.set $stdin (call $get_stdin))
      (block $closed
        (loop $next
          (call $read (local.get $stdin) (i64.const 65536) (i32.const 0))
          (br_if $closed (i32.load8_u (i32.const 0)))
          (memory.copy (i32.add (i32.const 131072) (global.get $len)) (i32.load (i32.const 4)) (i32.load (i32.const 8)))
          (global.set $len (i32.add (global.get $len) (i32.load (i32.const 8))))
          (br $next))))

    (func (export "run") (result i32)
      (local $what i32)
      (local $count i32)
      (global.set $stdout (call $get_stdout))
      (call $read_all)
      (local.set $what (i32.load8_u (i32.const 131072)))
      (if (i32.eq (local.get $what) (i32.const 99)) ;; c
        (then
          (call $connect (i32.const 131073) (i32.const 131077))
          (call $exchange (i32.const 131079))))
      (if (i32.eq (local.get $what) (i32.const 110)) ;; n
        (then
          (call $look_up (i32.const 131076) (i32.load8_u (i32.const 131075)))
          (call $connect (i32.const 32) (i32.const 131073))
          (call $exchange (i32.add (i32.const 131076) (i32.load8_u (i32.const 131075))))))
      (if (i32.eq (local.get $what) (i32.const 119)) ;; w
        (then
          (call $connect (i32.const 131073) (i32.const 131077))
          (loop $for_ever (br_if $for_ever (i32.eqz (call $send (global.get $out) (i32.const 4096) (i32.const 4096)))))))
      (if (i32.eq (local.get $what) (i32.const 102)) ;; f
        (then
          (call $connect (i32.const 131073) (i32.const 131077))
          (call $print_number (call $fill))
          (i32.store8 (i32.const 96) (i32.const 10))
          (call $print (i32.const 96) (i32.const 1))))
      (if (i32.eq (local.get $what) (i32.const 50)) ;; 2
        (then
          (call $connect (i32.const 131073) (i32.const 131077))
          (call $connect (i32.const 131073) (i32.const 131077))))
      (if (i32.eq (local.get $what) (i32.const 116)) ;; t
        (then (call $poll_both (i64.const 50_000_000))))
      (if (i32.eq (local.get $what) (i32.const 84)) ;; T
        (then (call $poll_both (i64.const 3_600_000_000_000))))
      (if (i32.eq (local.get $what) (i32.const 115)) ;; s
        (then
          (loop $next
            (call $create (i32.const 0) (i32.const 0))
            (if (i32.eqz (i32.load8_u (i32.const 0)))
              (then
                (local.set $count (i32.add (local.get $count) (i32.const 1)))
                (br $next))))
          (local.set $what (i32.load8_u (i32.const 4)))
          (call $print_number (local.get $count))
          (call $print_error (local.get $what))))
      (if (i32.eq (local.get $what) (i32.const 108)) ;; l
        (then (call $bind_and_listen)))
      (if (i32.eq (local.get $what) (i32.const 117)) ;; u
        (then
          (call $create_udp (i32.const 0) (i32.const 0))
          (call $must (i32.const 4))))
      (i32.const 0)))
  (core instance $program (instantiate $program
    (with "heap" (instance $heap))
    (with "host" (instance
      (export "block" (func $block)) (export "poll" (func $poll)) (export "read" (func $read))
      (export "subscribe-in" (func $subscribe-in)) (export "check-write" (func $check-write))
      (export "write" (func $write)) (export "write-and-flush" (func $write-and-flush))
      (export "get-stdin" (func $get-stdin)) (export "get-stdout" (func $get-stdout)) (export "exit" (func $exit))
      (export "subscribe-duration" (func $subscribe-duration)) (export "instance-network" (func $instance-network))
      (export "create" (func $create)) (export "create-udp" (func $create-udp))
      (export "start-bind" (func $start-bind)) (export "finish-bind" (func $finish-bind))
      (export "start-connect" (func $start-connect)) (export "finish-connect" (func $finish-connect))
      (export "start-listen" (func $start-listen)) (export "subscribe" (func $subscribe))
      (export "shutdown" (func $shutdown)) (export "resolve" (func $resolve)) (export "next" (func $next))
      (export "subscribe-found" (func $subscribe-found))))))

  (func $run (result (result)) (canon lift (core func $program "run")))
  (instance $exported (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $exported)))
