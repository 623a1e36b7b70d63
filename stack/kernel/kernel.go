package kernel

import (
	"errors"
	"net/netip"
)

// ErrInUse says that what Clean was to remove is at work.
var ErrInUse = errors.New("routes and rules are in use")

// State is what the kernel of one network namespace is to be told. A plain value that Kernel.Apply makes
// true; the zero value asks for nothing. Two equal states (reflect.DeepEqual) mean the same.
type State struct {
	// Device is the TUN, TAP or interface, which must exist.
	Device string
	// Silent says that the device is a TAP, on whose segment tunlb is a host and this kernel is none: it is set
	// up, and the kernel neither sends anything of its own there nor answers. Valid with Device and Absent alone.
	Silent bool
	// Foreign says that the device is an interface of the administrator's, where tunlb only has a packet socket.
	// Nothing is changed, but it must be up. Valid with Device, Absent and Alone only.
	Foreign bool
	// Absent are tunlb's own addresses on the segment and the VIPs: the namespace must not have them on any interface
	// but lo. Two hosts with one address would both answer, and the box would lose what it is reached by. On lo they
	// are those of a real server, which the box may be itself. Valid with Silent or Foreign.
	Absent []netip.Addr
	// Alone says that the device must be no port of a bridge or bond, which would pass frames on past tunlb. Valid
	// with Foreign.
	Alone bool

	// Addresses are put on the device (the kernel's end of it), e.g. 10.255.0.1/30.
	Addresses []netip.Prefix
	// Routes lead through the device in the main table: the virtual router's 0.0.0.0/0, or ::/0.
	Routes []netip.Prefix

	// Routed says that this is a box with interfaces of its own, whose policy rules are to lead packets to
	// the device. Without it the device is made for a namespace of its own (virtual router): only Addresses
	// and Routes count, and lo is set up, too.
	Routed bool
	// VIPs are led to the device. Valid iff Routed.
	VIPs []VIP
	// Servers are the real servers whose answers are led to the device. Valid iff Routed.
	Servers []Server
	// Gateways are inside networks whose traffic to the outside is led to the device. Valid iff Routed.
	Gateways []Gateway
}

// VIP is a virtual IP with the services on it.
type VIP struct {
	Addr  netip.Addr
	Ports []PortProto
}

// PortProto is a range of ports of TCP (6) or UDP (17), First to Last; both 0 are all ports.
type PortProto struct {
	Proto       uint8
	First, Last uint16
}

// Server is one real server of a service over Proto, TCP (6) or UDP (17). Its answers come from the ports First to
// Last; both 0 are all ports: those of a server that keeps the client's port, of a service with all of them.
type Server struct {
	Addr        netip.Addr
	Proto       uint8
	First, Last uint16
}

// Gateway leads what Inside sends to the outside to the device, and the answers too, which come to
// Masquerade, ports FirstPort to LastPort (at most 65534: the kernel's rules know no 65535).
type Gateway struct {
	Inside              netip.Prefix
	Masquerade          netip.Addr
	FirstPort, LastPort uint16
}

// View is what Kernel.Watch sees of a namespace.
type View struct {
	// Addresses are all addresses of the namespace with the device that has them, in order.
	Addresses []Address
	// OnLink are the networks that are reached without a gateway (main table), in order.
	OnLink []OnLink
	// DeviceUp says that the watched device exists and is up.
	DeviceUp bool
}

// Address is an address of the namespace. Prefix keeps the host's bits: 192.168.0.100/24.
type Address struct {
	Prefix netip.Prefix
	Device string
}

// OnLink is a network reached without a gateway.
type OnLink struct {
	Prefix netip.Prefix
	Device string
}

// Local says whether addr is an address of the namespace on a device other than except ("" excepts none).
func (v View) Local(addr netip.Addr, except string) bool {
	for _, a := range v.Addresses {
		if a.Prefix.Addr() == addr && a.Device != except {
			return true
		}
	}
	return false
}
