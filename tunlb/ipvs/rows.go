package ipvs

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tunlb/tunlb/policy"
)

// columns are one kind of listing: its two lines of heading, and what follows the address in a row of a
// service and in one of a server.
type columns struct {
	services, servers string
	counters          bool // columns of nine, that begin with their space

	ofService func(r row) string
	ofServer  func(s *policy.ServerSpec, e ServerEntry) string
}

// columnsOf chooses the listing. Of several that are asked for the first wins, as in ipvsadm.
func columnsOf(o Options) columns {
	const details = "Prot LocalAddress:Port Scheduler Flags"
	switch {
	case o.Stats:
		return columns{
			"Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes", "  -> RemoteAddress:Port", true,
			func(r row) string { return numbers(policy.Rates(r.entry.Stats), o.Exact) },
			func(_ *policy.ServerSpec, e ServerEntry) string { return numbers(policy.Rates(e.Stats), o.Exact) },
		}
	case o.Rates:
		return columns{
			"Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS", "  -> RemoteAddress:Port", true,
			func(r row) string { return numbers(r.entry.Rates, o.Exact) },
			func(_ *policy.ServerSpec, e ServerEntry) string { return numbers(e.Rates, o.Exact) },
		}
	case o.Thresholds:
		return columns{
			"Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn ", "  -> RemoteAddress:Port", false,
			row.details,
			func(s *policy.ServerSpec, e ServerEntry) string {
				return fmt.Sprintf("%-10d %-10d %-10d %-10d", s.Upper, s.Lower, e.Active, e.Inactive)
			},
		}
	case o.Persistent:
		return columns{
			"Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn ", "  -> RemoteAddress:Port", false,
			row.details,
			func(s *policy.ServerSpec, e ServerEntry) string {
				return fmt.Sprintf("%-9d %-11d %-10d %-10d", e.weight(s), e.Persistent, e.Active, e.Inactive)
			},
		}
	case o.Tunnels:
		return columns{
			details, "  -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn", false,
			row.details,
			func(s *policy.ServerSpec, e ServerEntry) string {
				return fmt.Sprintf("%-7s %-13s %-6d %-10d %-10d", forwardName(s.Mode), tunnelText(s), e.weight(s), e.Active, e.Inactive)
			},
		}
	}
	return columns{
		details, "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn", false,
		row.details,
		func(s *policy.ServerSpec, e ServerEntry) string {
			return fmt.Sprintf("%-7s %-6d %-10d %-10d", forwardName(s.Mode), e.weight(s), e.Active, e.Inactive)
		},
	}
}

func (c columns) service(r row, names Names) string {
	head := "FWM  " + strconv.FormatUint(uint64(r.spec.Mark.Value), 10)
	if r.spec.Mark.IPv6 {
		head += " IPv6"
	}
	if r.spec.Mark.Value == 0 {
		place := names.place(r.at.Addr, r.at.First, r.at.Proto)
		if r.at.Last != r.at.First {
			place += "-" + strconv.Itoa(int(r.at.Last))
		}
		head = fmt.Sprintf("%-4s %s", strings.ToUpper(policy.ProtoName(r.at.Proto)), fitting(place, r.at.Addr.Is4()))
	}
	if c.counters {
		head = fmt.Sprintf("%-33s", head)
	}
	return head + c.ofService(r)
}

func (c columns) server(r row, s *policy.ServerSpec, e ServerEntry, names Names) string {
	if s.Mode == 0 {
		plain := *s
		plain.Mode = cmp.Or(r.spec.Mode, policy.NAT)
		s = &plain
	}
	place := names.place(s.Address.Addr(), s.Address.Port(), r.at.Proto)
	head := fmt.Sprintf("  -> %-28s", fitting(place, s.Address.Addr().Is4()))
	if !c.counters {
		head += " "
	}
	return head + c.ofServer(s, e)
}

// fitting cuts long names off, but not those of IPv6.
func fitting(place string, is4 bool) string {
	if is4 && len(place) > 28 {
		return place[:28]
	}
	return place
}

// numbers are five columns of nine places, scaled so that they fit, or exact ones.
func numbers(v policy.Rates, exact bool) string {
	var text strings.Builder
	for _, n := range []uint64{v.Conns, v.InPackets, v.OutPackets, v.InBytes, v.OutBytes} {
		switch {
		case exact:
			fmt.Fprintf(&text, " %8d", n)
		case n < 1e8:
			fmt.Fprintf(&text, "%9d", n)
		case n < 1e9:
			fmt.Fprintf(&text, "%8dK", n/1e3)
		case n < 1e11:
			fmt.Fprintf(&text, "%8dM", n/1e6)
		case n < 1e14:
			fmt.Fprintf(&text, "%8dG", n/1e9)
		default:
			fmt.Fprintf(&text, "%8dT", n/1e12)
		}
	}
	return text.String()
}

// details are a service's scheduler and what else it has.
func (r row) details() string {
	s := r.spec
	text := " " + cmp.Or(s.Scheduler, "wlc")
	if s.Flags != 0 {
		text += " (" + flagsText(s.Flags, s.Scheduler) + ")"
	}
	if s.Persistence.Timeout > 0 {
		text += fmt.Sprintf(" persistent %d", s.Persistence.Timeout/time.Second)
		if s.Persistence.HostBits != 0 {
			text += " mask " + maskText(s.Persistence.HostBits, s.Is4())
		}
	}
	if s.Persistence.Engine != "" {
		text += " pe " + s.Persistence.Engine
	}
	if s.OnePacket {
		text += " ops"
	}
	return text
}

func forwardName(m policy.Mode) string {
	switch m {
	case policy.DR:
		return "Route"
	case policy.Tunnelled:
		return "Tunnel"
	}
	return "Masq"
}

// tunnelText is how packets are wrapped, such as gue:6080:+c.
func tunnelText(s *policy.ServerSpec) string {
	checksum := map[string]string{"": "-c", "nocsum": "-c", "csum": "+c", "remcsum": "r+c"}[s.Tunnel.Checksum]
	switch {
	case s.Mode != policy.Tunnelled:
		return "n/a"
	case s.Tunnel.Type == "gue":
		return fmt.Sprintf("gue:%d:%s", s.Tunnel.Port, checksum)
	case s.Tunnel.Type == "gre":
		return "gre:" + checksum
	}
	return "ipip"
}

// compareHashed is the kernel's order, that of its hash table: what --nosort shows.
func (r row) compareHashed(o row) int {
	return cmp.Or(compareBool(r.spec.Mark.Value != 0, o.spec.Mark.Value != 0), r.bucket()-o.bucket())
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// bucket is the service's in the kernel's hash table. There an address of memory is mixed in, another one on
// every machine; here it is that of the one whose listing the tests have.
func (r row) bucket() int {
	const salt = 0xd0
	if r.spec.Mark.Value != 0 {
		return int(uint8(r.spec.Mark.Value) ^ salt)
	}
	var low byte // of the address as one word
	if a := r.at.Addr; a.Is4() {
		low = a.As4()[3]
	} else {
		b := a.As16()
		low = b[3] ^ b[7] ^ b[11] ^ b[15]
	}
	var port [2]byte
	binary.BigEndian.PutUint16(port[:], r.at.First)
	return int(r.at.Proto ^ low ^ port[0] ^ port[1] ^ salt)
}

// weight is what the listing shows.
func (e *ServerEntry) weight(s *policy.ServerSpec) int {
	if e.Weight != nil {
		return *e.Weight
	}
	return s.Weight
}
