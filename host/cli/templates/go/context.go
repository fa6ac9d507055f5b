package main

// Context has the caller and the time of a call. It is the same in every replay of a transaction.
type Context struct {
	ID, User    string
	Sequence    uint64
	TimestampNS uint64
}

// A program of the mode c-shared needs it, and never calls it.
func main() {}
