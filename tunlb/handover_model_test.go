package tunlb

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/tunlb/flow"
)

// TestHandOverModel: whatever happens in whatever order, the kernel ends up carrying just those connections that the table says it
// does, and all counts agree.
func TestHandOverModel(t *testing.T) {
	f := families[0]
	rapid.Check(t, func(rt *rapid.T) {
		r := newFast(t, f)
		r.watched.Close() // nobody reads it
		defer r.e.Close()
		port := rapid.Uint16Range(40000, 40003)
		flags := rapid.SampledFrom([]uint8{packet.TCPSyn, packet.TCPAck, packet.TCPAck, packet.TCPFin | packet.TCPAck, packet.TCPRst, packet.TCPSyn | packet.TCPAck})
		number := rapid.SampledFrom([]uint32{0, 1000, 1001, 9001, 1 << 31})
		send := func(frame []byte) {
			lane := r.e.lanes[0]
			lane.take(lane.buf[packet.Headroom:][:copy(lane.buf[packet.Headroom:], frame)])
			r.ports[0].take()
		}
		client := func(rt *rapid.T) {
			send(pt.TCP(t, at(f.client, port.Draw(rt, "port")), at(f.vip, 80), pt.Flags(flags.Draw(rt, "flags")), pt.Seq(number.Draw(rt, "seq")), pt.Ack(number.Draw(rt, "ack"))))
		}
		server := func(rt *rapid.T) {
			rs := rapid.SampledFrom([]int{0, 1}).Draw(rt, "server")
			send(pt.TCP(t, at([]netip.Addr{f.rs1, f.rs2}[rs], 8080), at(f.client, port.Draw(rt, "port")), pt.Flags(flags.Draw(rt, "flags")), pt.Seq(number.Draw(rt, "seq")), pt.Ack(number.Draw(rt, "ack"))))
		}
		order := func(do string) func(*rapid.T) {
			return func(*rapid.T) {
				if _, err := r.e.Order(ServerOrder{Server: "rs1", Do: do}); err != nil {
					rt.Fatal(err)
				}
			}
		}
		any := func(rt *rapid.T) {
			rapid.SampledFrom([]func(*rapid.T){client, server, order(Drain), order(Undrain)}).Draw(rt, "meanwhile")(rt)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"client": client, "server": server, "drain": order(Drain), "undrain": order(Undrain),
			"work":             func(*rapid.T) { r.c.work() },
			"linger no longer": func(*rapid.T) { r.c.hurry() },
			"read":             func(*rapid.T) { r.c.readAll() },
			"the kernel refuses": func(rt *rapid.T) {
				r.path.refuse = func(Carried) error { return errors.New("no") }
				r.c.work()
				r.path.refuse = nil
			},
			"the kernel is out of order": func(rt *rapid.T) {
				r.path.broken = errors.New("netlink is out of order")
				r.step()
				r.path.broken = nil
			},
			"work, and something else meanwhile": func(rt *rapid.T) {
				r.path.between = func() { any(rt) }
				r.c.work()
				r.path.between = nil
			},
			"traffic": func(rt *rapid.T) { r.path.pass(flow.Direction(rapid.IntRange(0, 1).Draw(rt, "direction")), 1, 100) },
			"time": func(rt *rapid.T) {
				r.now += time.Duration(rapid.IntRange(1, 100).Draw(rt, "seconds")) * time.Second
				r.e.expire()
			},
			"kill": func(rt *rapid.T) {
				id := "tcp/" + at(f.client, port.Draw(rt, "port")).String() + "/" + at(f.vip, 80).String()
				if err := r.e.Kill(id); err != nil && !errors.Is(err, ErrNoConn) {
					rt.Fatal(err)
				}
				r.ports[0].take()
			},
			"": func(rt *rapid.T) { r.agrees(rt) },
		})
		// When everything has been told and read once, nothing is left over.
		r.step()
		r.c.readAll()
		r.step()
		carried := r.agrees(rt)
		if r.path.len() != carried || len(r.c.conns) != carried {
			rt.Fatalf("the kernel carries %d, the carrier knows %d, by the table it is %d", r.path.len(), len(r.c.conns), carried)
		}
	})
}

// agrees wants the counts of what is carried to be right, and returns how many that are.
func (r *fastRig) agrees(rt *rapid.T) (carried int) {
	halfOpen := 0
	r.e.Conns(ConnFilter{}, func(c Conn) bool {
		if c.Fastpath {
			carried++
		}
		return true
	})
	for _, conn := range r.c.conns {
		if conn.halfOpen {
			halfOpen++
		}
	}
	for i := range r.c.offers.n {
		if r.c.offers.items[(r.c.offers.first+i)%len(r.c.offers.items)].halfOpen {
			halfOpen++
		}
	}
	sum := 0
	for _, n := range r.c.byServer {
		sum += n
	}
	if s := r.c.stats; s.Carried != carried || sum != carried || r.c.halfOpen != halfOpen || s.HandedOver-s.TakenBack != uint64(carried) {
		rt.Fatalf("%+v, %d by server, %d half-open; the table has %d carried, and %d are half-open", s, sum, r.c.halfOpen, carried, halfOpen)
	}
	return carried
}

// TestOfferAllocatesNothing: it is on the packet's way.
func TestOfferAllocatesNothing(t *testing.T) {
	r := newFast(t, families[0])
	r.fromClient(40000, syn)
	outer := packet.Tuple{Src: families[0].client.As16(), SrcPort: 40000, Dst: families[0].vip.As16(), DstPort: 80, Proto: packet.ProtoTCP}
	f, _ := r.e.flows.Find(&outer)
	server := r.e.services.Server(f.Server())
	var taken [bundle]handover
	if n := testing.AllocsPerRun(1000, func() {
		r.c.offers.take(taken[:])
		f.SetCarriage(flow.ByUs)
		r.c.followLocked(f, server)
		if f.Carriage() != flow.Offered {
			t.Fatal("it is not offered")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
