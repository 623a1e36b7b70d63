package port

// Ring is a port whose frames are read where the kernel has put them: many for a wake-up, none of them copied.
type Ring interface {
	Port
	// Receive waits for frames, puts as many as there are and have room into frames, each `virtio_net_hdr | Ethernet
	// header | packet`, and returns how many. They may be changed, and are the caller's until the next Receive, which
	// gives their places back to the kernel. Errors are those of Read. One goroutine calls this, TryReceive or Read.
	Receive(frames [][]byte) (n int, err error)
	// TryReceive is Receive, but where that would wait it returns 0 and no error.
	TryReceive(frames [][]byte) (n int, err error)
	// NewBurst returns a way to send many frames by one system call. Close of the port closes it.
	NewBurst() Burst
}

// Burst collects frames and sends them together. It is one goroutine's.
type Burst interface {
	// Put has a frame sent out of the interface with index link, by a Ring's burst out of its own whatever link says. The
	// frame is borrowed, and must stay as it is, until Flush. When as many wait as one call takes, Put flushes.
	Put(frame []byte, link int)
	// Flush sends what waits, in order. failed is how many frames were not sent, err why the last of them was not:
	// as from Write.
	Flush() (failed int, err error)
}

// Singly is a Burst for what has no system call for many: each frame is written as it is put.
func Singly(write func(frame []byte, link int) error) Burst { return &singly{write: write} }

type singly struct {
	write  func(frame []byte, link int) error
	failed int
	err    error
}

func (s *singly) Put(frame []byte, link int) {
	if err := s.write(frame, link); err != nil {
		s.failed, s.err = s.failed+1, err
	}
}

func (s *singly) Flush() (failed int, err error) {
	failed, err = s.failed, s.err
	s.failed, s.err = 0, nil
	return failed, err
}
