package sim

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/loopback"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/tunlb/tunlb/labnet/scenario"
)

// Numbers of a stack's interfaces.
const (
	loopbackNIC tcpip.NICID = 1
	firstNIC    tcpip.NICID = 2 // eth0
)

// Sizes of TCP's buffers. A stream through tunlb needs some super-packets on the way, and links may have a delay.
const (
	defaultBuffer = 2 << 20
	maxBuffer     = 8 << 20
)

// host is a client or a server: a stack of its own. Safe for concurrent use.
type host struct {
	file    scenario.Host
	clock   *clock
	stack   *gstack.Stack
	nics    []*nic
	running sync.WaitGroup // of the nics
	closing sync.Once
}

// newHost makes a host whose interfaces nics are, in the order of its attachments, and lets it hear and answer.
func newHost(file scenario.Host, c *clock, nics []*nic) (*host, error) {
	h := &host{file: file, clock: c, nics: nics, stack: gstack.New(gstack.Options{
		// IPv6 by its zero options: an address is usable at once (no duplicate address detection), and nobody asks for
		// routers that are configured.
		NetworkProtocols:   []gstack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []gstack.TransportProtocolFactory{tcp.NewProtocolCUBIC, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		Clock:              c,
		HandleLocal:        true,
	})}
	for _, step := range [...]func() error{h.tune, h.addLoopback, h.addInterfaces, h.addRoutes} {
		if err := step(); err != nil {
			h.close()
			return nil, fmt.Errorf("host %s: %w", file.Name, err)
		}
	}
	for _, n := range nics {
		h.running.Go(n.run)
	}
	return h, nil
}

func (h *host) tune() error {
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: defaultBuffer, Max: maxBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: defaultBuffer, Max: maxBuffer}
	// Without RACK, whose probe for a lost tail comes after two round trips: that may be 100 us here, and a
	// thread that waits for its turn once is repeated for nothing. SACK remains.
	recovery := tcpip.TCPRecovery(0)
	return errors.Join(
		fault("loss recovery", h.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &recovery)),
		fault("receive buffers", h.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &receive)),
		fault("send buffers", h.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &send)))
}

func (h *host) addLoopback() error {
	if err := fault("lo", h.stack.CreateNICWithOptions(loopbackNIC, loopback.New(), gstack.NICOptions{Name: "lo"})); err != nil {
		return err
	}
	return errors.Join(
		h.addAddress(loopbackNIC, netip.MustParsePrefix("127.0.0.1/8"), gstack.CanBePrimaryEndpoint),
		h.addAddress(loopbackNIC, netip.MustParsePrefix("::1/128"), gstack.CanBePrimaryEndpoint))
}

// addInterfaces gives each interface its addresses. It has those of the loopback interface, too, but quietly: a
// stack takes in only what is addressed to the interface that it comes by.
func (h *host) addInterfaces() error {
	for i, n := range h.nics {
		id := firstNIC + tcpip.NICID(i)
		if err := fault(n.name, h.stack.CreateNICWithOptions(id, n, gstack.NICOptions{Name: n.name})); err != nil {
			return err
		}
		for _, p := range h.file.Attachments[i].Addresses {
			if err := h.addAddress(id, p, gstack.CanBePrimaryEndpoint); err != nil {
				return err
			}
		}
		for _, p := range h.file.Loopback {
			if err := h.addAddress(id, netip.PrefixFrom(p.Addr(), p.Addr().BitLen()), gstack.NeverPrimaryEndpoint); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h *host) addAddress(id tcpip.NICID, p netip.Prefix, behaviour gstack.PrimaryEndpointBehavior) error {
	return fault("address "+p.String(), h.stack.AddProtocolAddress(id, tcpip.ProtocolAddress{
		Protocol:          protocolOf(p.Addr()),
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: address(p.Addr()), PrefixLen: p.Bits()},
	}, gstack.AddressProperties{PEB: behaviour}))
}

// addRoutes sets those of the interfaces' networks, then the default ones.
func (h *host) addRoutes() error {
	routes := []tcpip.Route{
		{Destination: header.IPv4LoopbackSubnet, NIC: loopbackNIC},
		{Destination: subnet(netip.MustParsePrefix("::1/128")), NIC: loopbackNIC},
	}
	var defaults []tcpip.Route
	for i, a := range h.file.Attachments {
		id := firstNIC + tcpip.NICID(i)
		for _, p := range a.Addresses {
			routes = append(routes, tcpip.Route{Destination: subnet(p.Masked()), NIC: id})
			for _, gateway := range h.file.Gateways {
				if p.Masked().Contains(gateway) {
					everywhere := header.IPv4EmptySubnet
					if gateway.Is6() {
						everywhere = header.IPv6EmptySubnet
					}
					defaults = append(defaults, tcpip.Route{Destination: everywhere, Gateway: address(gateway), NIC: id})
				}
			}
		}
	}
	if len(defaults) < len(h.file.Gateways) {
		return fmt.Errorf("no interface's network has the gateway: %v", h.file.Gateways)
	}
	h.stack.SetRouteTable(append(routes, defaults...))
	return nil
}

// addresses are all that the host has but 127.0.0.1 and ::1.
func (h *host) addresses() (all []netip.Addr) {
	for _, a := range h.file.Attachments {
		for _, p := range a.Addresses {
			all = append(all, p.Addr())
		}
	}
	for _, p := range h.file.Loopback {
		all = append(all, p.Addr())
	}
	return all
}

// close resets all connections and ends the stack. Idempotent.
func (h *host) close() {
	h.closing.Do(func() {
		for _, n := range h.nics {
			n.queue.close()
		}
		h.running.Wait()
		h.abort()
		h.stack.Close()
		if p := h.stack.TransportProtocolInstance(tcp.ProtocolNumber); p != nil {
			p.Wait()
		}
		h.abort() // a handshake may have been completed since, and Wait would wait for its end
		h.stack.Wait()
	})
}

func (h *host) abort() {
	for _, ep := range h.stack.RegisteredEndpoints() {
		ep.Abort()
	}
}

// fault is an error of the stack's; nil if there is none.
func fault(what string, err tcpip.Error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %v", what, err)
}

func address(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func subnet(p netip.Prefix) tcpip.Subnet {
	return tcpip.AddressWithPrefix{Address: address(p.Addr()), PrefixLen: p.Bits()}.Subnet()
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}
