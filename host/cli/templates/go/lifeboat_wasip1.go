// The exports of the workload, by the canonical ABI of `lifeboat:vm@0.1.0`.

package main

import "unsafe"

// The host takes at most 1 MiB at a time.
const chunkBytes = 65536

//go:wasmimport lifeboat:vm/state@0.1.0 write
func stateWrite(chunk unsafe.Pointer, length uint32)

//go:wasmimport lifeboat:vm/state@0.1.0 read
func stateRead(max uint32, answer unsafe.Pointer)

// What `state.read` answers.
type slice struct {
	address, length uint32
}

// What an export returns: whether it is an error, and the reply or the reason.
type result struct {
	isErr           uint32
	address, length uint32
}

var (
	counter Counter
	// The arguments that the host wrote, by their addresses. The collector does not see the host's pointers.
	arguments = map[uint32][]byte{}
	last      result
	lastReply []byte
)

// Returns the bytes that the host put at an address, and forgets them.
func taken(address, length uint32) []byte {
	bytes := arguments[address]
	delete(arguments, address)
	return bytes[:length]
}

func returned(reply []byte, err error) unsafe.Pointer {
	last.isErr = 0
	if err != nil {
		last.isErr = 1
		reply = []byte(err.Error())
	}
	lastReply = reply
	last.address = uint32(uintptr(unsafe.Pointer(unsafe.SliceData(reply))))
	last.length = uint32(len(reply))
	return unsafe.Pointer(&last)
}

//go:wasmexport lifeboat:vm/workload@0.1.0#execute
func execute(id, idLength, user, userLength uint32, sequence, timestamp uint64, body, length uint32) unsafe.Pointer {
	context := Context{string(taken(id, idLength)), string(taken(user, userLength)), sequence, timestamp}
	return returned(counter.Execute(context, taken(body, length)))
}

//go:wasmexport lifeboat:vm/workload@0.1.0#query
func query(id, idLength, user, userLength uint32, sequence, timestamp uint64, body, length uint32) unsafe.Pointer {
	context := Context{string(taken(id, idLength)), string(taken(user, userLength)), sequence, timestamp}
	return returned(counter.Query(context, taken(body, length)))
}

//go:wasmexport lifeboat:vm/workload@0.1.0#state-version
func stateVersion() uint32 {
	return StateVersion
}

//go:wasmexport lifeboat:vm/workload@0.1.0#snapshot
func snapshot() unsafe.Pointer {
	state, err := counter.Save()
	for len(state) > 0 && err == nil {
		some := min(len(state), chunkBytes)
		stateWrite(unsafe.Pointer(unsafe.SliceData(state)), uint32(some))
		state = state[some:]
	}
	return returned(nil, err)
}

//go:wasmexport lifeboat:vm/workload@0.1.0#restore
func restore(version uint32) unsafe.Pointer {
	var state []byte
	for {
		var chunk slice
		stateRead(chunkBytes, unsafe.Pointer(&chunk))
		if chunk.length == 0 {
			return returned(nil, counter.Load(version, state))
		}
		state = append(state, taken(chunk.address, chunk.length)...)
	}
}

// The host puts arguments where this function returns.
//
//go:wasmexport cabi_realloc
func realloc(old, oldLength, alignment, length uint32) uint32 {
	bytes := make([]byte, max(length, 1))
	copy(bytes, arguments[old])
	delete(arguments, old)
	address := uint32(uintptr(unsafe.Pointer(unsafe.SliceData(bytes))))
	arguments[address] = bytes
	return address
}
