package importer

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/ipvs"
)

// IPVSADM prints the configuration that does what the saved commands do. The order of servers is that of the
// kernel's list after them: the last one added comes first. An error is one of reading.
func IPVSADM(r io.Reader, names ipvs.Names) ([]byte, error) {
	var state ipvs.State
	f := file{source: "ipvsadm-save"}
	left := map[ipvs.Service]bool{} // services that were left out
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		note := func(why string) { f.notes = append(f.notes, line+": "+why) }
		c, err := ipvs.ParseLine(line, names)
		if err != nil {
			note(err.Error())
			continue
		}
		if why := unserved(c, left); why != "" {
			note(why)
			continue
		}
		next, err := state.Apply(c)
		if err != nil {
			note(err.Error())
			continue
		}
		state = next
	}
	if state.Timeouts != (ipvs.Timeouts{}) {
		t := state.Timeouts.Filled()
		f.timeouts = fmt.Sprintf("{established: %ds, fin_wait: %ds, udp: %ds}", t.TCP, t.TCPFin, t.UDP)
	}
	f.specs = state.Specs
	out, err := f.print()
	return out, errors.Join(lines.Err(), err)
}

// unserved says why a command has no counterpart; "" if it has one. The services that it keeps out are
// remembered, since their servers come later.
func unserved(c ipvs.Command, left map[ipvs.Service]bool) string {
	switch c.Verb {
	case ipvs.AddService, ipvs.EditService:
		why := ""
		switch {
		case c.Service.Mark.Value != 0:
			why = "services by firewall mark are not served yet: listen takes several VIPs and ranges of ports"
		case c.Service.Proto == policy.SCTP:
			why = "SCTP is not served yet"
		case c.Persistence.Engine != "":
			why = "there are no persistence engines yet"
		}
		if why != "" {
			left[c.Service] = true
		}
		return why
	case ipvs.AddServer, ipvs.EditServer, ipvs.DeleteServer:
		switch {
		case left[c.Service]:
			return "its service is not imported"
		case c.Server.Mode == policy.Tunnelled:
			return "tunnels are not served yet"
		}
	case ipvs.StartDaemon, ipvs.StopDaemon:
		return "connections are not synchronised between directors yet"
	case ipvs.DeleteService, ipvs.Flush, ipvs.Set:
	default:
		return "it changes no table"
	}
	return ""
}
