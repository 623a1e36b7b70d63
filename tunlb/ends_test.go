package tunlb

import (
	"testing"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// clientTold and serverTold have the kernel tell of a segment that it has carried.
func (r *fastRig) clientTold(number uint16, flags uint8) {
	r.t.Helper()
	r.c.ended([]End{{Tuple: packet.TupleOf(packet.ProtoTCP, at(r.family.client, number), at(r.vip, 80)), Flags: flags}})
}

func (r *fastRig) serverTold(number uint16, flags uint8) {
	r.t.Helper()
	r.c.ended([]End{{Tuple: packet.TupleOf(packet.ProtoTCP, at(r.serverOf(number), 8080), at(r.family.client, number)), Flags: flags}})
}

// active is how many connections the services' servers have that are active.
func (r *fastRig) active() (n int) {
	for _, svc := range r.e.Status().Services {
		for _, srv := range svc.Servers {
			n += int(srv.Active)
		}
	}
	return n
}

// TestEndsTold: connections end by what the kernel tells, in every order, and their ends may be used again.
func TestEndsTold(t *testing.T) {
	const fin, rst = packet.TCPFin | packet.TCPAck, packet.TCPRst | packet.TCPAck
	each(t, func(t *testing.T, f family) {
		r := newFast(t, f)
		for name, tt := range map[string]struct {
			first, then   func(uint16, uint8)
			state, closed string
		}{
			"client first": {r.clientTold, r.serverTold, "CLOSE_WAIT, kernel", "TIME_WAIT"},
			"server first": {r.serverTold, r.clientTold, "FIN_WAIT, kernel", "TIME_WAIT"},
		} {
			r.established(40000)
			if r.active() != 1 {
				t.Fatalf("%s: %d active", name, r.active())
			}
			tt.first(40000, fin)
			r.step()
			r.want(40000, tt.state, 1)
			tt.first(40000, fin) // sent again
			r.step()
			r.want(40000, tt.state, 1)
			tt.then(40000, fin)
			r.step()
			r.want(40000, tt.closed, 0)
			if r.active() != 0 {
				t.Errorf("%s: %d are active when all is over", name, r.active())
			}
		}
		for name, told := range map[string]func(uint16, uint8){"client": r.clientTold, "server": r.serverTold} {
			r.established(40001)
			told(40001, rst)
			r.step()
			r.want(40001, "CLOSE", 0)
			if r.active() != 0 {
				t.Errorf("reset by the %s: %d active", name, r.active())
			}
			r.pass(3 * time.Minute)
			r.want(40001, "none", 0)
		}
		// The kernel tells late: another connection has the same ends by now, and has not been there yet.
		r.established(40002)
		r.clientTold(40002, fin)
		r.serverTold(40002, fin)
		r.step()
		r.fromClient(40002, syn, pt.Seq(70_000))
		r.clientTold(40002, rst)
		r.serverTold(40002, fin)
		r.want(40002, "SYN_RECV", 0)
		r.step()
		r.want(40002, "SYN_RECV, kernel", 1)
		// Of what is nobody's nothing comes.
		r.clientTold(50000, rst)
		r.want(40002, "SYN_RECV, kernel", 1)
	})
}

// TestEndsLost: connections that have ended unheard end by silence.
func TestEndsLost(t *testing.T) {
	r := newFast(t, families[0], func(_ *Options, c *Config) {
		c.Timeouts = policy.Timeouts{Established: 5 * time.Second, FinWait: 5 * time.Second}
	})
	r.established(40000)
	r.established(40001)
	r.clientTold(40001, packet.TCPFin|packet.TCPAck)
	r.pass(3 * time.Second)
	r.want(40000, "ESTABLISHED, kernel", 2)
	r.pass(70 * time.Second)
	r.want(40000, "none", 0)
	r.want(40001, "none", 0)
}
