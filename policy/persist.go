package policy

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

// DefaultTemplates is how many templates a table keeps if LimitTemplates does not say.
const DefaultTemplates = 1 << 20

// controlled is for how long at a time a template is kept whose time is over while flows of it live.
const controlled = 60 * time.Second

// A quiesced or overloaded server keeps the clients that templates send to it, as in IPVS as long as
// expire_quiescent_template is off. Those of a server that is deleted, unreachable, down or drained are forgotten as
// soon as they are found.
func (s *Server) attracts() bool {
	return !s.Deleted && !s.unreachable && !s.down && !s.drained
}

// Template sends a client's new connections to one server. A plain value, for listings.
type Template struct {
	Client netip.Addr     // the network's first address, if HostBits of the service are above 0
	VIP    netip.AddrPort // port 0 where the service has more than single ports
	Proto  uint8
	Server *Server
	Left   time.Duration // until it ends, or is looked at again if it has flows
	Flows  int           // that live
}

// persistence is a service's part of the templates. The zero value is of one without persistence.
type persistence struct {
	templates *templates
	// epoch tells the service's templates from those of others, and from its own before they became invalid.
	epoch uint32
	// ports is a mask of the place in a key. Without the port there is one template for all ports of a VIP; so it
	// is where the service has more than single ports.
	ports uint64
	mask  words // of the client's address
}

// Opened tells that there is a flow to the server which its service's Pick has scheduled for c. Closed is to
// be called when it ends, before Remove. c is the client as it was: only its Now is another. Both do nothing
// for a service without persistence.
func (s *Server) Opened(c Client) {
	p := &s.Service.persistence
	if p.epoch == 0 {
		return
	}
	if e := p.templates.of(p, &c); e != nil && e.server == s.ID {
		e.flows++
	}
}

// Closed ends what Opened has begun.
func (s *Server) Closed(c Client) {
	p := &s.Service.persistence
	if p.epoch == 0 {
		return
	}
	// The template may have been forgotten and made anew, so that it has not counted this flow: flows may fall
	// short then, and it ends before its last flow does. They are never too many.
	e := p.templates.of(p, &c)
	if e == nil || e.server != s.ID || e.flows == 0 {
		return
	}
	e.extend(ticks(c.Now))
	e.flows--
}

// Persistent is the number of templates that send clients to the server.
func (s *Server) Persistent() int {
	if s.epoch != s.Service.epoch {
		return 0 // those that were counted are invalid
	}
	return s.persistent
}

// pickPersistent asks the template first, and makes one of what the scheduler picks.
func (s *Service) pickPersistent(c *Client) *Server {
	t, now := s.templates, ticks(c.Now)
	var key templateKey
	s.key(&key, c)
	hash := t.hash(&key)
	if e, ref := t.find(&key, hash); e != nil {
		server := t.registry.servers[e.server]
		if e.decides(server, now) {
			e.deadline = ticksUp(c.Now + s.Persistence.Timeout)
			return server
		}
		t.remove(ref)
	}
	server := s.scheduler.pick(s.Servers, *c)
	if server != nil {
		t.insert(&key, hash, server, now, ticksUp(c.Now+s.Persistence.Timeout))
	}
	return server
}

// decides says whether the template still sends its client to its server.
func (e *template) decides(server *Server, now tick) bool { return server.attracts() && e.lives(now) }

// key sets what a client's connections have in common. It is not returned, for what templateKey says.
func (p *persistence) key(k *templateKey, c *Client) {
	k.client.high = binary.BigEndian.Uint64(c.Src[:8]) & p.mask.high
	k.client.low = binary.BigEndian.Uint64(c.Src[8:]) & p.mask.low
	k.vip.high = binary.BigEndian.Uint64(c.Dst[:8])
	k.vip.low = binary.BigEndian.Uint64(c.Dst[8:])
	k.place = uint64(p.epoch)<<32 | uint64(c.DstPort)<<16&p.ports | uint64(c.Proto)
}

// persist sets the service up for what its spec says now. Templates stay valid unless they would be found by
// other keys now, or not at all.
func (s *Service) persist(r *registry) {
	was := s.persistence
	s.persistence = persistence{templates: r.templates}
	if p := s.Persistence; p.Timeout > 0 && len(s.Listen) > 0 {
		s.epoch = was.epoch
		s.mask = maskOf(p.HostBits, s.Is4())
		if s.ports = 0xffff << 16; slices.ContainsFunc(s.Listen, func(l Listen) bool { return l.Ports() > 1 }) {
			s.ports = 0
		}
		if was.epoch == 0 || s.persistence != was {
			s.epoch = r.templates.nextEpoch()
		}
	}
	if was.epoch != 0 && was.epoch != s.epoch {
		r.templates.startSweep()
	}
}

// maskOf leaves out the low bits of a client's address. An IPv4 address has 32 of them at most: the rest of it
// says that it is one.
func maskOf(hostBits int, is4 bool) words {
	most := 128
	if is4 {
		most = 32
	}
	n := min(max(hostBits, 0), most)
	return words{^uint64(0) << (max(n, 64) - 64), ^uint64(0) << min(n, 64)}
}

// LimitTemplates sets how many templates this table and the others of its line keep at most; 0 means
// DefaultTemplates. A new one beyond takes the place of the one that would have ended next.
func (t *Table) LimitTemplates(n int) { t.registry.templates.limit(n) }

// TemplateCount is the number of templates; some of them may be about to end.
func (t *Table) TemplateCount() int { return t.registry.templates.len }

// Expire ends the templates whose time is over. It looks at about n of them at most, and says whether there
// is more to do at once. To be called every second or so; nothing depends on it but the numbers of templates
// and when they let go of servers that are deleted.
func (t *Table) Expire(now time.Duration, n int) (more bool) {
	return t.registry.templates.expire(ticks(now), n)
}

// Templates visits about n templates from cursor on, 0 at first, and returns the cursor to go on with. For
// listings that must not hold the lock for long: what is there all the time is visited exactly once. visit
// must not change the table.
func (t *Table) Templates(now time.Duration, cursor uint64, n int, visit func(Template)) (next uint64, more bool) {
	all := t.registry.templates
	return all.walk(cursor, n, func(e *template) {
		if !all.valid(e) || !e.lives(ticks(now)) {
			return
		}
		c := *e
		c.extend(ticks(now))
		visit(Template{
			Client: netip.AddrFrom16(e.client.bytes()).Unmap(),
			VIP:    netip.AddrPortFrom(netip.AddrFrom16(e.vip.bytes()).Unmap(), e.port()),
			Proto:  e.proto(),
			Server: all.registry.servers[e.server],
			Left:   time.Duration(c.deadline.sub(ticks(now))) * tickUnit,
			Flows:  int(e.flows),
		})
	})
}
