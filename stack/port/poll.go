package port

// Pollable is a port that can be read without waiting, and waited for together with others.
type Pollable interface {
	Port
	// TryRead is Read, but where that would wait it returns 0 and no error.
	TryRead(frame []byte) (n int, err error)
}

// Poll waits for several ports at once, for the one goroutine that reads them all.
type Poll interface {
	// Wait returns nil when there may be a frame at one of the ports, or else what ended one of them: the errors are
	// those of Read.
	Wait() error
	// Ready says whether the last Wait found something at the i-th of the ports.
	Ready(i int) bool
}
