;; count.wat as a component that imports sockets, and another interface of WASI, as the runtime of a language does. It
;; uses none of them while it counts.
;;
;; - `net` takes the network from `instance-network`, and answers the case of the error with which `resolve-addresses`
;;   ends: `1`, which is `access-denied`.
;; - `boom` calls `peek`, whose type has no error.
(component
  (import "lifeboat:vm/state@0.1.0" (instance $state
    (export "write" (func (param "chunk" (list u8))))
    (export "read" (func (param "max" u32) (result (list u8))))))
  (import "wasi:io/poll@0.2.0" (instance $poll (export "pollable" (type (sub resource)))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:sockets/network@0.2.3" (instance $network
    (export "network" (type (sub resource)))
    (type $codes (enum "unknown" "access-denied" "not-supported"))
    (export "error-code" (type (eq $codes)))))
  (alias export $network "network" (type $net))
  (alias export $network "error-code" (type $code))
  (import "wasi:sockets/instance-network@0.2.3" (instance $instance-network
    (alias outer 1 $net (type $outer))
    (export "network" (type $net (eq $outer)))
    (export "instance-network" (func (result (own $net))))))
  (import "wasi:sockets/ip-name-lookup@0.2.3" (instance $lookup
    (alias outer 1 $net (type $outer-net))
    (export "network" (type $net (eq $outer-net)))
    (alias outer 1 $code (type $outer-code))
    (export "error-code" (type $code (eq $outer-code)))
    (alias outer 1 $pollable (type $outer-pollable))
    (export "pollable" (type $pollable (eq $outer-pollable)))
    (export "resolve-address-stream" (type $addresses (sub resource)))
    (export "[method]resolve-address-stream.subscribe"
      (func (param "self" (borrow $addresses)) (result (own $pollable))))
    (export "resolve-addresses"
      (func (param "network" (borrow $net)) (param "name" string) (result (result (own $addresses) (error $code)))))))
  (import "wasi:nowhere/things" (instance $nowhere (export "peek" (func (result u32)))))

  ;; Memory and allocator are a module of their own, since the imports of the other need them.
  (core module $heap
    (memory (export "memory") 1)
    (global $heap (export "heap") (mut i32) (i32.const 1024))
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
  (core instance $heap (instantiate $heap))
  (alias core export $heap "memory" (core memory $memory))
  (alias core export $heap "cabi_realloc" (core func $realloc))

  (core func $write (canon lower (func $state "write") (memory $memory)))
  (core func $read (canon lower (func $state "read") (memory $memory) (realloc $realloc)))
  (core func $instance-network (canon lower (func $instance-network "instance-network")))
  (core func $resolve (canon lower (func $lookup "resolve-addresses") (memory $memory)))
  (core func $peek (canon lower (func $nowhere "peek")))
  (core func $drop-network (canon resource.drop $net))

  (core module $guest
    (import "host" "write" (func $write (param $chunk i32) (param $length i32)))
    (import "host" "read" (func $read (param $max i32) (param $answer i32)))
    (import "host" "instance-network" (func $instance_network (result i32)))
    (import "host" "resolve"
      (func $resolve (param $network i32) (param $name i32) (param $length i32) (param $answer i32)))
    (import "host" "peek" (func $peek (result i32)))
    (import "host" "drop-network" (func $drop_network (param $network i32)))
    (import "heap" "memory" (memory 1))
    (import "heap" "heap" (global $heap (mut i32)))
    ;; 16 answer of an export or of `read`, 32 state, 40 answer of `resolve-addresses`, 64..96 digits, 128 texts, from
    ;; 1024 the heap.
    (data (i32.const 128) "refuse")
    (data (i32.const 144) "refused on request")
    (data (i32.const 176) "boom")
    (data (i32.const 192) "net")
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

    ;; Answers the case of the error as a digit.
    (func $look_up (param $network i32) (result i32)
      (call $resolve (local.get $network) (i32.const 128) (i32.const 6) (i32.const 40))
      (call $drop_network (local.get $network))
      (if (i32.ne (i32.load8_u (i32.const 40)) (i32.const 1)) (then unreachable))
      (i32.store8 (i32.const 64) (i32.add (i32.const 48) (i32.load8_u (i32.const 44))))
      (call $answer (i32.const 0) (i32.const 64) (i32.const 1)))

    (func (export "execute")
      (param i32 i32 i32 i32 i64 i64) (param $body i32) (param $length i32) (result i32)
      (global.set $heap (i32.const 1024))
      (if (call $is (local.get $body) (local.get $length) (i32.const 128) (i32.const 6))
        (then (return (call $answer (i32.const 1) (i32.const 144) (i32.const 18)))))
      (if (call $is (local.get $body) (local.get $length) (i32.const 176) (i32.const 4))
        (then (drop (call $peek))))
      (if (call $is (local.get $body) (local.get $length) (i32.const 192) (i32.const 3))
        (then (return (call $look_up (call $instance_network)))))
      (global.set $count (i64.add (global.get $count) (i64.const 1)))
      (call $answer_count))

    (func (export "query")
      (param i32 i32 i32 i32 i64 i64) (param $body i32) (param $length i32) (result i32)
      (global.set $heap (i32.const 1024))
      (call $answer_count))

    (func (export "state-version") (result i32) (i32.const 1))

    (func (export "snapshot") (result i32)
      (i64.store (i32.const 32) (global.get $count))
      (call $write (i32.const 32) (i32.const 8))
      (call $answer (i32.const 0) (i32.const 0) (i32.const 0)))

    ;; `read` may answer fewer bytes than asked for, and none at the end: then this traps.
    (func (export "restore") (param $version i32) (result i32)
      (local $have i32)
      (loop $more
        (call $read (i32.sub (i32.const 8) (local.get $have)) (i32.const 16))
        (if (i32.eqz (i32.load (i32.const 20))) (then unreachable))
        (memory.copy (i32.add (i32.const 32) (local.get $have)) (i32.load (i32.const 16)) (i32.load (i32.const 20)))
        (local.set $have (i32.add (local.get $have) (i32.load (i32.const 20))))
        (br_if $more (i32.lt_u (local.get $have) (i32.const 8))))
      (global.set $count (i64.load (i32.const 32)))
      (call $answer (i32.const 0) (i32.const 0) (i32.const 0))))
  (core instance $guest (instantiate $guest
    (with "heap" (instance $heap))
    (with "host" (instance
      (export "write" (func $write)) (export "read" (func $read)) (export "peek" (func $peek))
      (export "instance-network" (func $instance-network)) (export "resolve" (func $resolve))
      (export "drop-network" (func $drop-network))))))

  (type $context (record (field "id" string) (field "user" string) (field "sequence" u64) (field "timestamp" u64)))

  (func $execute (param "context" $context) (param "transaction" (list u8)) (result (result (list u8) (error string)))
    (canon lift (core func $guest "execute") (memory $memory) (realloc $realloc)))
  (func $query (param "context" $context) (param "query" (list u8)) (result (result (list u8) (error string)))
    (canon lift (core func $guest "query") (memory $memory) (realloc $realloc)))
  (func $state_version (result u32) (canon lift (core func $guest "state-version")))
  (func $snapshot (result (result (error string)))
    (canon lift (core func $guest "snapshot") (memory $memory) (realloc $realloc)))
  (func $restore (param "version" u32) (result (result (error string)))
    (canon lift (core func $guest "restore") (memory $memory) (realloc $realloc)))

  ;; An interface with a named type has to come out of a component of its own.
  (component $workload
    (type $record (record (field "id" string) (field "user" string) (field "sequence" u64) (field "timestamp" u64)))
    (import "context" (type $context (eq $record)))
    (import "execute" (func $execute
      (param "context" $context) (param "transaction" (list u8)) (result (result (list u8) (error string)))))
    (import "query" (func $query
      (param "context" $context) (param "query" (list u8)) (result (result (list u8) (error string)))))
    (import "state-version" (func $state_version (result u32)))
    (import "snapshot" (func $snapshot (result (result (error string)))))
    (import "restore" (func $restore (param "version" u32) (result (result (error string)))))
    (export $named "context" (type $record))
    (export "execute" (func $execute) (func
      (param "context" $named) (param "transaction" (list u8)) (result (result (list u8) (error string)))))
    (export "query" (func $query) (func
      (param "context" $named) (param "query" (list u8)) (result (result (list u8) (error string)))))
    (export "state-version" (func $state_version))
    (export "snapshot" (func $snapshot))
    (export "restore" (func $restore)))
  (instance $exported (instantiate $workload
    (with "context" (type $context))
    (with "execute" (func $execute))
    (with "query" (func $query))
    (with "state-version" (func $state_version))
    (with "snapshot" (func $snapshot))
    (with "restore" (func $restore))))
  (export "lifeboat:vm/workload@0.1.0" (instance $exported)))
