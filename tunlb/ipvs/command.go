package ipvs

import (
	"fmt"
	"net/netip"
	"strconv"

	"github.com/tunlb/tunlb/policy"
)

// Verb is what a command does, by the name that ipvsadm's messages have for it.
type Verb string

// Verbs.
const (
	AddService    Verb = "add-service"
	EditService   Verb = "edit-service"
	DeleteService Verb = "delete-service"
	Flush         Verb = "flush"
	AddServer     Verb = "add-server"
	EditServer    Verb = "edit-server"
	DeleteServer  Verb = "delete-server"
	Set           Verb = "set"
	StartDaemon   Verb = "start-daemon"
	StopDaemon    Verb = "stop-daemon"
	ListTable     Verb = "list"
	ZeroCounters  Verb = "zero"
	SaveTable     Verb = "save"
	RestoreTable  Verb = "restore"
	Help          Verb = "help"
	Version       Verb = "version"
)

// Changes says whether the verb is one that [State.Apply] carries out. Of ZeroCounters it only checks that
// there is such a service; the counters are the caller's, as are the other verbs altogether.
func (v Verb) Changes() bool {
	switch v {
	case ListTable, SaveTable, RestoreTable, Help, Version, ZeroCounters:
		return false
	}
	return true
}

// Command is one parsed command line. A plain value that survives JSON; the zero value is none.
type Command struct {
	Verb    Verb    `json:"verb"`
	Service Service `json:"service,omitzero"` // the zero value in list and zero: all

	// Of a service; valid iff Verb is AddService or EditService.
	Scheduler   string             `json:"scheduler,omitempty"`
	Flags       policy.Flags       `json:"flags,omitempty"`
	Persistence policy.Persistence `json:"persistence,omitzero"`
	OnePacket   bool               `json:"one_packet,omitempty"`

	// Server is without a name. Valid iff Verb is AddServer or EditServer; of DeleteServer it is the address.
	Server policy.ServerSpec `json:"server,omitzero"`

	Timeouts Timeouts `json:"timeouts,omitzero"` // valid iff Verb is Set; zero fields keep
	Daemon   Daemon   `json:"daemon,omitzero"`   // valid iff Verb is StartDaemon or StopDaemon
	Options  Options  `json:"options,omitzero"`  // of list and save
}

// Service is how ipvsadm names a virtual service: protocol, address and port, or a mark. A plain, comparable
// value; the zero value is none.
type Service struct {
	Proto uint8       `json:"proto,omitempty"`
	Addr  netip.Addr  `json:"addr,omitzero"` // unmapped; invalid iff Mark is set
	Port  uint16      `json:"port,omitempty"`
	Mark  policy.Mark `json:"mark,omitzero"`
}

// Is4 says whether it is one of IPv4.
func (s Service) Is4() bool {
	if s.Mark.Value != 0 {
		return !s.Mark.IPv6
	}
	return s.Addr.Is4()
}

// String is a name for people, and for [policy.Spec.Name]: tcp/10.0.0.10:80 or fwm/7.
func (s Service) String() string {
	switch {
	case s.Mark.Value != 0 && s.Mark.IPv6:
		return fmt.Sprintf("fwm/%d/ipv6", s.Mark.Value)
	case s.Mark.Value != 0:
		return fmt.Sprintf("fwm/%d", s.Mark.Value)
	}
	return policy.ProtoName(s.Proto) + "/" + netip.AddrPortFrom(s.Addr, s.Port).String()
}

// argument is the service as the arguments that name it.
func (s Service) argument(n Names) string {
	if s.Mark.Value != 0 {
		if s.Mark.IPv6 {
			return fmt.Sprintf("-f %d -6", s.Mark.Value)
		}
		return "-f " + strconv.FormatUint(uint64(s.Mark.Value), 10)
	}
	option := map[uint8]string{policy.TCP: "-t ", policy.UDP: "-u ", policy.SCTP: "--sctp-service "}[s.Proto]
	return option + n.place(s.Addr, s.Port, s.Proto)
}

// Options are those of listings; all but Numeric are valid iff the verb is ListTable.
type Options struct {
	Numeric     bool `json:"numeric,omitempty"`
	Connections bool `json:"connections,omitempty"`
	Timeouts    bool `json:"timeouts,omitempty"`
	Daemons     bool `json:"daemons,omitempty"`
	Stats       bool `json:"stats,omitempty"`
	Rates       bool `json:"rates,omitempty"`
	Thresholds  bool `json:"thresholds,omitempty"`
	Persistent  bool `json:"persistent,omitempty"` // --persistent-conn; of Connections: with the engine's columns
	Tunnels     bool `json:"tunnels,omitempty"`
	Exact       bool `json:"exact,omitempty"`
	Unsorted    bool `json:"unsorted,omitempty"`
}

// Timeouts are in seconds, as ipvsadm sets and shows them. As part of a [State] zero fields are the kernel's
// defaults.
type Timeouts struct {
	TCP    int `json:"tcp,omitempty"`
	TCPFin int `json:"tcpfin,omitempty"`
	UDP    int `json:"udp,omitempty"`
}

// Filled has the kernel's defaults for zero fields.
func (t Timeouts) Filled() Timeouts { return Timeouts{900, 120, 300}.with(t) }

// with has those of u where they are set.
func (t Timeouts) with(u Timeouts) Timeouts {
	for _, f := range []struct {
		to   *int
		from int
	}{{&t.TCP, u.TCP}, {&t.TCPFin, u.TCPFin}, {&t.UDP, u.UDP}} {
		if f.from != 0 {
			*f.to = f.from
		}
	}
	return t
}

// Daemon is a daemon that synchronises connections between directors. Held, not run.
type Daemon struct {
	Role      string     `json:"role"` // Master or Backup
	Interface string     `json:"interface,omitempty"`
	SyncID    int        `json:"syncid,omitempty"`
	MaxLen    int        `json:"maxlen,omitempty"` // this and the rest: zero values are the kernel's defaults
	Group     netip.Addr `json:"group,omitzero"`
	Port      uint16     `json:"port,omitempty"`
	TTL       int        `json:"ttl,omitempty"`
}

// Roles of daemons.
const (
	Master = "master"
	Backup = "backup"
)
