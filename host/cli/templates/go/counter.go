// A counter. A transaction is a number to add, and its reply is the total.

package main

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Counter is the state: all that a failover moves, beside the files of the virtual disk. Variables of a package begin
// anew, and so does the random order of a map.
type Counter struct {
	Total int64 `json:"total"`
}

// StateVersion is the form of the state. Raise it when Save returns another one, and let Load read the older one.
const StateVersion uint32 = 1

// The longest transaction. The decoder calls itself for each bracket, so a long one could use up the stack.
const transactionBytesMax = 64

// Execute applies a transaction. An error refuses it; check first, since changes before an error are kept.
func (c *Counter) Execute(_ Context, transaction []byte) ([]byte, error) {
	var number *int64
	if len(transaction) > transactionBytesMax || json.Unmarshal(transaction, &number) != nil || number == nil {
		return nil, errors.New("send a whole number of 64 bits, such as 5")
	}
	add := *number
	sum := c.Total + add
	if (c.Total^sum)&(add^sum) < 0 {
		return nil, errors.New("the total would not fit in 64 bits")
	}
	c.Total = sum
	return json.Marshal(c.Total)
}

// Query answers a question, and changes nothing.
func (c *Counter) Query(_ Context, _ []byte) ([]byte, error) {
	return json.Marshal(c.Total)
}

// Save returns the state as bytes.
func (c *Counter) Save() ([]byte, error) {
	return json.Marshal(c)
}

// Load takes a state that Save of this or of an older version returned.
func (c *Counter) Load(version uint32, state []byte) error {
	if version != StateVersion {
		return fmt.Errorf("state has version %d, this workload reads version %d", version, StateVersion)
	}
	return json.Unmarshal(state, c)
}
