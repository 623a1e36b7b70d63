package ipvs

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/tunlb/tunlb/policy"
)

// State is what ipvsadm's commands change. A plain value that survives JSON; the zero value is the empty table
// with the kernel's timeouts.
type State struct {
	Specs    []policy.Spec `json:"specs,omitempty"`
	Timeouts Timeouts      `json:"timeouts,omitzero"`
	Daemons  []Daemon      `json:"daemons,omitempty"` // at most one of each role
}

// The kernel's refusals, in ipvsadm's words.
var (
	errServiceExists = &Error{"Service already exists", exitFailed}
	errServerExists  = &Error{"Destination already exists", exitFailed}
	errNoService     = &Error{"No such service", exitFailed}
	errNoServer      = &Error{"No such destination", exitFailed}
	errNotDefined    = &Error{"Service not defined", exitFailed}
	errNoScheduler   = &Error{"Scheduler or persistence engine not found", exitFailed}
	errRange         = &Error{"Numerical result out of range", exitFailed}
	errInvalid       = &Error{"Invalid operation.  Possibly wrong module version, address not unicast, ...", exitFailed}
	errRuns          = &Error{"Daemon has already run", exitFailed}
	errNoDaemon      = &Error{"No daemon is running", exitFailed}
)

// Apply carries a command out and returns what comes of it; s stays as it is. An error is an [*Error] and
// changes nothing. Verbs that are no changes give s.
//
// A service of the configuration may listen at several places. It is found at each of them, and a range of
// ports at each of its ports. To edit it edits all of it; to delete it takes the one place away, and the
// service with its last.
func (s State) Apply(c Command) (State, error) {
	switch c.Verb {
	case AddService:
		return s.addService(c)
	case EditService:
		return s.editService(c)
	case DeleteService:
		return s.deleteService(c)
	case Flush:
		s.Specs = nil
		return s, nil
	case AddServer, EditServer, DeleteServer:
		return s.changeServer(c)
	case Set:
		s.Timeouts = s.Timeouts.with(c.Timeouts)
		return s, nil
	case StartDaemon, StopDaemon:
		return s.changeDaemon(c)
	case ZeroCounters:
		if i, _ := s.Find(c.Service); i < 0 && c.Service != (Service{}) {
			return s, errNoService
		}
	}
	return s, nil
}

// Find gives the indices of the service's spec and of the place where that listens; -1 if there is none. Of a
// service by mark the second is -1.
func (s State) Find(svc Service) (spec, listen int) {
	for i := range s.Specs {
		if svc.Mark.Value != 0 {
			if s.Specs[i].Mark == svc.Mark {
				return i, -1
			}
			continue
		}
		for k, l := range s.Specs[i].Listen {
			if l.Addr == svc.Addr && l.Proto == svc.Proto && l.All() == (svc.Port == 0) && l.Has(svc.Port) {
				return i, k
			}
		}
	}
	return -1, -1
}

func (s State) addService(c Command) (State, error) {
	if i, _ := s.Find(c.Service); i >= 0 {
		return s, errServiceExists
	}
	spec := policy.Spec{Name: c.Service.String(), Mark: c.Service.Mark}
	if c.Service.Mark.Value == 0 {
		spec.Listen = policy.On(netip.AddrPortFrom(c.Service.Addr, c.Service.Port), c.Service.Proto)
	}
	if err := configure(&spec, c); err != nil {
		return s, err
	}
	s.Specs = append(slices.Clip(s.Specs), spec)
	return s, nil
}

func (s State) editService(c Command) (State, error) {
	i, _ := s.Find(c.Service)
	if i < 0 {
		return s, errNoService
	}
	spec := s.Specs[i]
	if err := configure(&spec, c); err != nil {
		return s, err
	}
	return s.replace(i, spec), nil
}

// configure gives the spec what -A and -E say, all of it: what they leave out is the default again.
func configure(spec *policy.Spec, c Command) error {
	// The engine of the kernel that would read SIP calls is a module of its own, and tunlb has none.
	if !slices.Contains(policy.Schedulers(), c.Scheduler) || c.Persistence.Engine != "" {
		return errNoScheduler
	}
	spec.Scheduler, spec.Flags = c.Scheduler, c.Flags
	spec.Persistence, spec.OnePacket = c.Persistence, c.OnePacket
	alone := *spec
	alone.Servers = nil // they have been asked about
	return valid(alone)
}

// valid asks policy, so that whoever builds the table is not surprised.
func valid(spec policy.Spec) error {
	if _, err := policy.Normalize([]policy.Spec{spec}); err != nil {
		return errInvalid
	}
	return nil
}

func (s State) deleteService(c Command) (State, error) {
	i, k := s.Find(c.Service)
	if i < 0 {
		return s, errNoService
	}
	spec := s.Specs[i]
	if len(spec.Listen) > 1 {
		spec.Listen = slices.Delete(slices.Clone(spec.Listen), k, k+1)
		return s.replace(i, spec), nil
	}
	s.Specs = slices.Delete(slices.Clone(s.Specs), i, i+1)
	return s, nil
}

func (s State) replace(i int, spec policy.Spec) State {
	s.Specs = slices.Clone(s.Specs)
	s.Specs[i] = spec
	return s
}

func (s State) changeServer(c Command) (State, error) {
	i, _ := s.Find(c.Service)
	if i < 0 {
		return s, errNotDefined
	}
	spec, server := s.Specs[i], c.Server
	k := slices.IndexFunc(spec.Servers, func(old policy.ServerSpec) bool { return old.Address == server.Address })
	switch c.Verb {
	case AddServer, EditServer:
		if server.Weight < 0 || server.Weight > policy.MaxWeight || server.Lower > server.Upper {
			return s, errRange
		}
	}
	switch {
	case c.Verb == AddServer && k >= 0:
		return s, errServerExists
	case c.Verb != AddServer && k < 0:
		return s, errNoServer
	case c.Verb == AddServer && !unicast(server.Address.Addr()):
		return s, errInvalid
	case c.Verb == AddServer:
		// The kernel's list grows at its head, and its schedulers walk it from there.
		server.Name = server.Address.String()
		spec.Servers = slices.Insert(slices.Clip(spec.Servers), 0, server)
	case c.Verb == EditServer:
		// What only the configuration knows stays.
		old := spec.Servers[k]
		server.Name, server.MAC, server.Keep = old.Name, old.MAC, old.Keep
		if old.Mode == policy.FullNAT && server.Mode == policy.NAT {
			server.Mode = policy.FullNAT // it is listed as NAT
		}
		spec.Servers = slices.Clone(spec.Servers)
		spec.Servers[k] = server
	case c.Verb == DeleteServer:
		spec.Servers = slices.Delete(slices.Clone(spec.Servers), k, k+1)
	}
	if c.Verb != DeleteServer {
		alone := spec // the others have been asked about
		if alone.Servers = []policy.ServerSpec{server}; valid(alone) != nil {
			return s, errInvalid
		}
	}
	return s.replace(i, spec), nil
}

// unicast says whether the kernel would send packets to a server at the address.
func unicast(addr netip.Addr) bool {
	broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return addr.IsValid() && !addr.IsUnspecified() && !addr.IsMulticast() && addr != broadcast && !(addr.Is6() && addr.IsLinkLocalUnicast())
}

func (s State) changeDaemon(c Command) (State, error) {
	i := slices.IndexFunc(s.Daemons, func(d Daemon) bool { return d.Role == c.Daemon.Role })
	switch {
	case c.Verb == StartDaemon && i >= 0:
		return s, errRuns
	case c.Verb == StartDaemon:
		s.Daemons = append(slices.Clip(s.Daemons), c.Daemon)
	case i < 0:
		return s, errNoDaemon
	default:
		s.Daemons = slices.Delete(slices.Clone(s.Daemons), i, i+1)
	}
	return s, nil
}

// Warnings are notes about what the command puts into the table that is held and listed but not served, a line
// each, for stderr.
func Warnings(c Command) []string {
	var notes []string
	note := func(what string) { notes = append(notes, "tunlb: note: "+what) }
	switch c.Verb {
	case AddService, EditService, AddServer:
		if c.Service.Mark.Value != 0 {
			note("service by firewall mark " + strconv.FormatUint(uint64(c.Service.Mark.Value), 10) + " is held, but not served yet")
		} else if c.Service.Proto == policy.SCTP {
			note("service " + c.Service.String() + " is held, but not served yet: SCTP")
		}
	case StartDaemon:
		note(c.Daemon.Role + " sync daemon is held, but does not run: connections are not synchronised yet")
	}
	if (c.Verb == AddServer || c.Verb == EditServer) && c.Server.Mode == policy.Tunnelled {
		note("server " + c.Server.Address.String() + " is held, but not served yet: tunnel (-i)")
	}
	return notes
}
