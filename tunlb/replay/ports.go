package replay

import (
	"os"
	"slices"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/stack/port"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/wiring"
)

// memory is a port that only the engine's steps feed. What is written to it, whoever watches has seen.
type memory struct {
	name string
	link packet.Link
	mtu  int
}

var _ port.Port = (*memory)(nil)

func (m *memory) Name() string             { return m.name }
func (m *memory) Link() packet.Link        { return m.link }
func (m *memory) MTU() int                 { return m.mtu }
func (m *memory) Read([]byte) (int, error) { return 0, os.ErrClosed }
func (m *memory) Write([]byte) error       { return nil }
func (m *memory) Close() error             { return nil }

// attachments are the ports of a configuration, in memory. mac is tunlb's own on all segments.
func attachments(cfg *config.Config, mac packet.MAC) (out []tunlb.Attachment) {
	for i, p := range cfg.Ports {
		dev := &memory{name: p.Name, mtu: p.MTU}
		if dev.mtu == 0 { // the interface's own, which nobody knows here
			dev.mtu = config.DefaultMTU
		}
		if p.Ethernet() || p.Box() {
			dev.link = packet.LinkEthernet
		}
		a := wiring.Attachment(p, dev, mac)
		a.Index = firstLink + i
		out = append(out, a)
	}
	return out
}

// box is what the kernel of the box would have said of itself: the addresses of its ends of the TUNs.
func box(cfg *config.Config) (b tunlb.Box) {
	for i := range cfg.Ports {
		if p := &cfg.Ports[i]; p.NetNS == "" {
			for _, prefix := range p.Addresses {
				b.Local = append(b.Local, prefix.Addr())
			}
		}
	}
	return b
}

// engineConfig is the configuration as the engine takes it. Nobody checks the servers here, so that they are up.
func engineConfig(cfg *config.Config) tunlb.Config {
	out := wiring.Config(cfg)
	out.Services = slices.Clone(out.Services)
	for i := range out.Services {
		out.Services[i].Health = policy.Health{}
	}
	return out
}

// direct is the way out of the box's own interfaces, to directly routed servers and, from ports that are such interfaces,
// to everybody: every one is there, at a MAC made up of the address, behind the first of them.
type direct struct{}

// firstLink is the index of the first interface.
const firstLink = 1

func (direct) Way(server [16]byte) (tunlb.Way, bool) {
	mac := packet.MAC{0x02, 0, server[12], server[13], server[14], server[15]}
	return tunlb.Way{Link: firstLink, MTU: config.DefaultMTU, Source: ownMAC(), MAC: mac}, true
}

func (direct) Write([]byte, int) error { return nil }
func (d direct) NewBurst() port.Burst  { return port.Singly(d.Write) }

// ownMAC is tunlb's where neither the file nor the configuration has one.
func ownMAC() packet.MAC { return packet.MAC{0x02, 't', 'u', 'n', 'l', 'b'} }
