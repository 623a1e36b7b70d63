package port

import (
	"sync"

	"github.com/tunlb/tunlb/stack/packet"
)

// ethernet is an Ethernet interface as its port tells about it.
type ethernet struct {
	*control

	mu     sync.Mutex // guards the following: MTU may come while the port closes
	closed bool
	last   int // the MTU as it was last seen
}

// newEthernet takes over c, whose interface has this MTU.
func newEthernet(c *control, mtu int) *ethernet { return &ethernet{control: c, last: mtu} }

func (e *ethernet) Name() string      { return e.name }
func (e *ethernet) Link() packet.Link { return packet.LinkEthernet }

// MTU asks the kernel each time, so that nobody has to listen for changes: it is
// asked for once in a while. An interface that can't be asked any more, since it is
// renamed, moved or gone, has the last one; Read tells of the last two.
func (e *ethernet) MTU() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return e.last
	}
	if mtu, err := e.mtu(); err == nil {
		e.last = mtu
	}
	return e.last
}

func (e *ethernet) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	e.control.close()
}
