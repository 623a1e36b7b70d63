package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/config/wording"
)

func (d *decoder) decodeScheduler(n *node) string {
	name, ok := d.choice(n, "scheduler", policy.Schedulers(), nil)
	if !ok {
		return DefaultScheduler
	}
	return name
}

// flags are those of the schedulers that have some, in the order in which ipvsadm shows them.
var flags = []struct {
	name string
	flag policy.Flags
}{{"fallback", policy.Fallback}, {"port", policy.HashPort}}

// flagged are the schedulers with flags.
var flagged = []string{"sh", "mh"}

// decodeFlags reads one flag or a list of them. ipvsadm writes them with their scheduler: sh-port.
func (d *decoder) decodeFlags(n *node, s *service) {
	if !slices.Contains(flagged, s.Scheduler) {
		d.fail(n.at, `"flags" with the scheduler `+s.Scheduler, "only sh and mh have some", "remove the key")
		return
	}
	var names []string
	for _, f := range flags {
		names = append(names, f.name)
	}
	d.oneOrMore(n, "flags", maxListens, func(n *node) {
		text, ok := d.str(n, "flags")
		if !ok {
			return
		}
		scheduler, name, found := strings.Cut(text, "-")
		if !found {
			scheduler, name = s.Scheduler, text
		}
		switch i := slices.Index(names, name); {
		case i < 0 || !slices.Contains(flagged, scheduler):
			d.fail(n.at, "unknown flag "+wording.Quote(text), "there are "+wording.Enumerate(names, "and"), wording.Suggest(name, names))
		case scheduler != s.Scheduler:
			d.fail(n.at, fmt.Sprintf("flag %q with the scheduler %s", text, s.Scheduler), "it is another scheduler's", fmt.Sprintf("write %q", name))
		default:
			s.Flags |= flags[i].flag
		}
	})
}

// decodePersistence reads a map or, for short, only the timeout.
func (d *decoder) decodePersistence(n *node, s *service) {
	const most = 31 * 24 * time.Hour // ipvsadm's
	p := &s.Persistence
	before := len(d.errs)
	timeout := func(n *node) { d.durationWithin(n, "timeout", time.Second, most, &p.Timeout) }
	if n.kind != mapping {
		d.durationWithin(n, "persistence", time.Second, most, &p.Timeout)
	} else {
		d.decode(n, `"persistence"`, []key{
			{name: "timeout", decode: timeout},
			{name: "mask", decode: func(n *node) { d.decodeMask(n, s) }},
		})
		if n.field("timeout") == nil {
			d.fail(n.at, `persistence without "timeout"`, "it ends some time after a client's last new connection", "write timeout: 6m, which is ipvsadm's default")
		}
	}
	s.badPersistence = len(d.errs) > before || n.broken
}

// decodeMask reads how much of a client's address counts: a prefix length or, for IPv4, a netmask.
func (d *decoder) decodeMask(n *node, s *service) {
	if !s.listens() {
		return // whose family is not known
	}
	bits := s.vip().BitLen()
	length, ok := 0, false
	if mask, err := netip.ParseAddr(n.text); n.kind == text && err == nil && mask.Is4() && s.vip().Is4() {
		if length, ok = maskLength(mask); !ok {
			d.fail(n.at, "mask "+wording.Quote(n.text)+" is no netmask", "its ones come first, and there is at least one", "write it like 255.255.255.0 or 24")
		}
	} else if n.kind == text && bits == 32 {
		d.fail(n.at, "mask "+wording.Quote(n.text)+" is no netmask", "a mask is a number of bits or a netmask", "write it like 24 or 255.255.255.0")
	} else {
		length, ok = d.number(n, "mask", 1, bits)
	}
	if ok {
		s.Persistence.HostBits = bits - length
	}
}

// maskLength gives the length of a prefix with that netmask.
func maskLength(mask netip.Addr) (int, bool) {
	b := mask.As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	for length := 1; length <= 32; length++ {
		if v == ^uint32(0)<<(32-length) {
			return length, true
		}
	}
	return 0, false
}

func (d *decoder) decodeTimeouts(n *node, t *policy.Timeouts) {
	var keys []key
	for _, f := range timeoutFields(t) {
		keys = append(keys, key{name: f.name, decode: func(n *node) { d.duration(n, f.name, f.value) }})
	}
	d.decode(n, `"timeouts"`, keys)
}

// timeoutField is a field with its name in the file.
type timeoutField struct {
	name  string
	value *time.Duration
}

func timeoutFields(t *policy.Timeouts) []timeoutField {
	return []timeoutField{
		{"none", &t.None}, {"established", &t.Established}, {"syn_sent", &t.SynSent}, {"syn_recv", &t.SynRecv},
		{"fin_wait", &t.FinWait}, {"time_wait", &t.TimeWait}, {"close", &t.Close}, {"close_wait", &t.CloseWait},
		{"last_ack", &t.LastAck}, {"listen", &t.Listen}, {"syn_ack", &t.SynAck}, {"udp", &t.UDP},
	}
}
