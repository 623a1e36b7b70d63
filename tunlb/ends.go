package tunlb

import (
	"encoding/binary"

	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/flow"
)

// What ends a connection that the kernel carries is carried as well, and told of a few milliseconds later. It is believed as it is when
// it comes here itself, see flow.Table.Ended. When it is lost, silence ends the connection.

// ended follows connections by what the kernel has carried of their ends.
func (c *carrier) ended(ends []End) {
	e := c.engine
	on := e.watching.now.Load()
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.tick()
	for i := range ends {
		f, d := e.flows.Find(&ends[i].Tuple)
		if f == nil {
			continue
		}
		was := f.Active()
		e.flows.Ended(f, d, ends[i].Flags, now)
		if on != nil {
			e.toldLocked(on, &ends[i], f, d, now)
		}
		srv := e.services.Server(f.Server())
		if srv == nil {
			continue
		}
		if is := f.Active(); is != was {
			srv.Move(is)
		}
		c.followLocked(f, srv)
	}
}

// toldLocked takes notes of a packet that the kernel has told of.
func (e *Engine) toldLocked(on *watchers, end *End, f *flow.Flow, d flow.Direction, now flow.Tick) {
	frame := append(make([]byte, packet.VnetLen, packet.VnetLen+len(end.Header)), end.Header...)
	w := &witness{}
	w.begin(e, on)
	w.record.SetIn("kernel", false, frame, on.snap)
	w.record.In.Length = lengthOf(end.Header)
	w.record.Exit = "carried"
	w.belongs(f, d, now)
	w.end()
}

// lengthOf is that of a packet, by its header.
func lengthOf(ip []byte) int {
	switch {
	case len(ip) >= 20 && ip[0]>>4 == 4:
		return int(binary.BigEndian.Uint16(ip[2:]))
	case len(ip) >= 40:
		return 40 + int(binary.BigEndian.Uint16(ip[4:]))
	}
	return len(ip)
}
