package ipvs

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tunlb/tunlb/policy"
)

// View is what the running services have counted, for listings. The zero value is of services that have seen
// nothing.
type View struct {
	Entries []Entry                // parallel to State.Specs; missing ones are zero
	Conns   iter.Seq2[Conn, error] // in any order; the first error ends the listing
}

// Entry is of one service.
type Entry struct {
	Stats   policy.Counters `json:"stats"`
	Rates   policy.Rates    `json:"rates"`
	Servers []ServerEntry   `json:"servers"` // parallel to Spec.Servers; missing ones are zero
}

// ServerEntry is of one server.
type ServerEntry struct {
	Stats      policy.Counters `json:"stats"`
	Rates      policy.Rates    `json:"rates"`
	Active     int             `json:"active"`
	Inactive   int             `json:"inactive"`
	Persistent int             `json:"persistent"` // templates
	// Weight is that in force, 0 for a server that is drained or down; nil: the configured one.
	Weight *int `json:"weight,omitempty"`
}

// Conn is one connection, or a template of persistence: then Client has port 0 and State is ASSURED or NONE.
type Conn struct {
	Proto                   uint8         `json:"proto"` // 0: of a template of a service by mark
	Expires                 time.Duration `json:"expires_ns"`
	State                   string        `json:"state"` // as the kernel calls it
	Client, Virtual, Server netip.AddrPort
}

// List prints what a command with the verb [ListTable] asks for. A service that is missing is an [*Error].
func List(w io.Writer, c Command, s State, v View, names Names) error {
	if c.Options.Numeric {
		names = Names{}
	}
	out := bufio.NewWriter(w)
	var err error
	switch {
	case c.Options.Connections:
		err = listConns(out, c.Options, v, names)
	case c.Options.Timeouts:
		t := s.Timeouts.Filled()
		fmt.Fprintf(out, "Timeout (tcp tcpfin udp): %d %d %d\n", t.TCP, t.TCPFin, t.UDP)
	case c.Options.Daemons:
		listDaemons(out, s.Daemons)
	default:
		err = listTable(out, c, s, v, names)
	}
	return cmp.Or(err, out.Flush())
}

func listDaemons(w io.Writer, daemons []Daemon) {
	for _, role := range []string{Master, Backup} {
		for _, d := range daemons {
			if d.Role != role {
				continue
			}
			if !d.Group.IsValid() {
				d.Group = netip.AddrFrom4([4]byte{224, 0, 0, 81})
			}
			fmt.Fprintf(w, "%s sync daemon (mcast=%s, syncid=%d, maxlen=%d, group=%s, port=%d, ttl=%d)\n", d.Role, d.Interface, d.SyncID,
				cmp.Or(d.MaxLen, 1472), d.Group, cmp.Or(d.Port, 8848), cmp.Or(d.TTL, 1))
		}
	}
}

func listConns(w io.Writer, o Options, v View, names Names) error {
	head := "IPVS connection entries\npro expire state       source             virtual            destination"
	if o.Persistent {
		head += "        pe name          pe_data"
	}
	fmt.Fprintln(w, head)
	if v.Conns == nil {
		return nil
	}
	for c, err := range v.Conns {
		if err != nil {
			return err
		}
		proto, seconds := "IP", int(c.Expires/time.Second)
		if c.Proto != 0 {
			proto = strings.ToUpper(policy.ProtoName(c.Proto))
		}
		place := func(at netip.AddrPort) string { return names.place(at.Addr(), at.Port(), c.Proto) }
		if _, err := fmt.Fprintf(w, "%-3s %-6s %-11s %-18s %-18s %s\n", proto, fmt.Sprintf("%02d:%02d", seconds/60, seconds%60),
			c.State, place(c.Client), place(c.Virtual), place(c.Server)); err != nil {
			return err
		}
	}
	return nil
}

// row is one line of the table of services: a spec at one of the places where it listens.
type row struct {
	spec  *policy.Spec
	at    policy.Listen // the zero value for a mark
	entry Entry
}

// kernelVersion heads the listing of the whole table. It is that of the kernel's interface, which scripts look at.
const kernelVersion = "IP Virtual Server version 1.2.1 (size=4096)"

func listTable(w io.Writer, c Command, s State, v View, names Names) error {
	rows := s.rows(v)
	if c.Service != (Service{}) {
		i, k := s.Find(c.Service)
		if i < 0 {
			return &Error{errNoService.Message, exitList}
		}
		rows = slices.DeleteFunc(rows, func(r row) bool {
			return r.spec != &s.Specs[i] || k >= 0 && r.at != s.Specs[i].Listen[k]
		})
	} else {
		fmt.Fprintln(w, kernelVersion)
	}
	if c.Options.Unsorted {
		slices.Reverse(rows) // a bucket's newest service comes first
		slices.SortStableFunc(rows, row.compareHashed)
	} else {
		slices.SortStableFunc(rows, row.compare)
	}
	columns := columnsOf(c.Options)
	fmt.Fprintf(w, "%s\n%s\n", columns.services, columns.servers)
	for _, r := range rows {
		fmt.Fprintln(w, columns.service(r, names))
		for _, k := range r.order(!c.Options.Unsorted) {
			var entry ServerEntry
			if k < len(r.entry.Servers) {
				entry = r.entry.Servers[k]
			}
			server := &r.spec.Servers[k]
			if _, err := fmt.Fprintln(w, columns.server(r, server, entry, names)); err != nil {
				return err
			}
		}
	}
	return nil
}

// rows are the services, one for each place.
func (s State) rows(v View) []row {
	var rows []row
	for i := range s.Specs {
		r := row{spec: &s.Specs[i]}
		if i < len(v.Entries) {
			r.entry = v.Entries[i]
		}
		if len(r.spec.Listen) == 0 {
			rows = append(rows, r)
		}
		for _, r.at = range r.spec.Listen {
			rows = append(rows, r)
		}
	}
	return rows
}

// compare is ipvsadm's order: marks last, then by family, protocol, address and port.
func (r row) compare(o row) int {
	return cmp.Or(
		cmp.Compare(r.spec.Mark.Value, o.spec.Mark.Value),
		family(r.spec.Is4())-family(o.spec.Is4()),
		cmp.Compare(r.at.Proto, o.at.Proto),
		r.at.Addr.Compare(o.at.Addr),
		cmp.Compare(r.at.First, o.at.First),
	)
}

func family(is4 bool) int {
	if is4 {
		return 4
	}
	return 6
}

// order lists the indices of the row's servers, by address and port or as they are.
func (r row) order(sorted bool) []int {
	order := make([]int, len(r.spec.Servers))
	for i := range order {
		order[i] = i
	}
	if sorted {
		slices.SortStableFunc(order, func(a, b int) int {
			x, y := r.spec.Servers[a].Address, r.spec.Servers[b].Address
			return cmp.Or(family(x.Addr().Is4())-family(y.Addr().Is4()), x.Compare(y))
		})
	}
	return order
}
