package tunlb

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/stack/port"
)

// crew are lanes that share a thread, which saves wake-ups: what a client's request wakes is still awake for the server's
// answer. The thread is theirs alone: on a prototype of this loop Go's poller cost a third of the request rate.
type crew struct {
	lanes []*lane
	poll  port.Poll // nil for a single lane that can only be read
}

// turn is how many frames a lane takes before the others of its crew have theirs.
const turn = batchSize

// newCrews distributes lanes among threads, if they can be waited for together. Half of the machine is for those that
// are balanced, unless threads says how many. spare is port.NewPoll's.
func newCrews(lanes []*lane, threads int, spare bool) []*crew {
	if threads <= 0 {
		threads = max(1, runtime.NumCPU()/2)
	}
	if threads < len(lanes) {
		crews := make([]*crew, threads)
		for i := range crews {
			crews[i] = &crew{}
		}
		for i, l := range lanes {
			c := crews[i%threads]
			c.lanes = append(c.lanes, l)
		}
		if seated(crews, spare) {
			return crews
		}
	}
	var single []*crew
	for _, l := range lanes {
		single = append(single, &crew{lanes: []*lane{l}, poll: port.NewPoll([]port.Port{l.Port}, spare)})
	}
	return single
}

// seated is false if a crew's lanes can't be waited for together.
func seated(crews []*crew, spare bool) bool {
	for _, c := range crews {
		var ports []port.Port
		for _, l := range c.lanes {
			ports = append(ports, l.Port)
		}
		if c.poll = port.NewPoll(ports, spare); c.poll == nil && len(ports) > 1 {
			return false
		}
	}
	return true
}

// run reads until the ports are closed (nil) or one of them fails.
func (c *crew) run() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, l := range c.lanes {
		l.start()
		defer l.thread.leave()
	}
	if c.poll == nil {
		return c.alone(c.lanes[0])
	}
	defer c.end()
	return c.together()
}

// alone serves one lane.
func (c *crew) alone(l *lane) error {
	for {
		if err := l.next(); err != nil {
			return ended("read from port "+l.Port.Name(), err)
		}
	}
}

// together serves several lanes in turn.
func (c *crew) together() error {
	woken := false // nothing has been tried since the last wait
	for {
		more := false
		for i, l := range c.lanes {
			if woken && !c.poll.Ready(i) {
				continue
			}
			some, err := l.try()
			if err != nil {
				return ended("read from port "+l.Port.Name(), err)
			}
			more = more || some
		}
		if woken = !more; woken {
			if err := c.poll.Wait(); err != nil {
				return ended("wait for ports", err)
			}
		}
	}
}

// end closes the ports, all of them since one has ended, and gives back what their rings have lent.
func (c *crew) end() {
	for _, l := range c.lanes {
		l.Port.Close()
		if l.batch != nil {
			l.batch.ring.TryReceive(l.batch.frames[:])
		}
	}
}

// start is called on the thread.
func (l *lane) start() {
	l.thread.enter()
	if ring, ok := l.Port.(port.Ring); ok {
		l.batch = &batch{ring: ring}
		l.bursts = newBursts(l.engine)
	}
}

// ended says of an error of a port what Run is to return.
func ended(what string, err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// next waits for a frame, or as many as are there, and takes them all the way.
func (l *lane) next() error {
	if b := l.batch; b != nil {
		n, err := b.ring.Receive(b.frames[:])
		l.takeAll(n)
		return err
	}
	frame := l.buf[packet.Headroom:]
	n, err := l.Port.Read(frame)
	if err == nil {
		l.take(frame[:n])
	}
	return err
}

// try takes those frames all the way that are there, as far as it is its turn. It tells whether there may be more.
func (l *lane) try() (more bool, err error) {
	if b := l.batch; b != nil {
		n, err := b.ring.TryReceive(b.frames[:])
		l.takeAll(n)
		return n > 0, err
	}
	p := l.Port.(port.Pollable)
	for range turn {
		frame := l.buf[packet.Headroom:]
		n, err := p.TryRead(frame)
		if n == 0 {
			return false, err
		}
		l.take(frame[:n])
	}
	return true, nil
}
