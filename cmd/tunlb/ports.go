package main

import (
	"crypto/sha256"
	"fmt"
	"net"
	"os"

	"github.com/tunlb/tunlb/stack/kernel"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/stack/port"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/wiring"
)

// openPorts makes the devices, each in a namespace cleaned of what a killed tunlb has left there. On an
// error those made are closed again.
func (d *daemon) openPorts() (attachments []tunlb.Attachment, err error) {
	var inherited []int // and not yet a port's
	defer func() {
		if err != nil {
			for _, a := range attachments {
				a.Port.Close()
			}
			for _, fd := range inherited {
				if fd > 0 {
					closeDescriptor(fd)
				}
			}
		}
	}()
	if d.box, err = openBoxPorts(d.cfg, d.heritage); err != nil {
		return nil, err
	}
	var cleaned map[string]bool
	inherited, cleaned = d.inheritPorts()
	macs, remembered := ownMACs(d.cfg), d.heritage.remembered()
	for i, p := range d.cfg.Ports {
		if !cleaned[p.NetNS] {
			cleaned[p.NetNS] = true
			removed, err := kernel.Clean(p.NetNS)
			if err != nil {
				return attachments, err
			}
			for _, command := range removed {
				d.log.Debug().Msg(command)
			}
			if len(removed) > 0 {
				d.log.Warn().Str("port", p.Name).Msgf("undid %s that a killed tunlb had left", count(len(removed), "change"))
			}
		}
		dev, err := openPort(p, macs[i], inherited[i])
		inherited[i] = 0
		if err != nil {
			return attachments, err
		}
		d.heritage.leavePort(&p, dev)
		attachments = append(attachments, wiring.Attachment(p, dev, macs[i]))
		if p.Box() {
			link, err := net.InterfaceByName(p.Name)
			if err != nil {
				return attachments, err
			}
			attachments[i].Index = link.Index
			d.box.add(p.Name, dev)
		}
		k, err := kernel.Open(p.NetNS)
		if err != nil {
			return attachments, err
		}
		d.networks = append(d.networks, &network{kernel: k, port: p, device: dev.Name()})
		if before := remembered[heirloom(&p)]; before != nil {
			if err := k.Recall(before); err != nil {
				return attachments, err
			}
		}
	}
	return attachments, nil
}

// inheritPorts says which ports have a device already, and the namespaces in which what a predecessor has told the kernel is in force:
// there nothing may be cleaned, or the kernel would handle for a moment what is tunlb's.
func (d *daemon) inheritPorts() (inherited []int, inForce map[string]bool) {
	inherited, inForce = make([]int, len(d.cfg.Ports)), map[string]bool{}
	for i := range d.cfg.Ports {
		p := &d.cfg.Ports[i]
		if inherited[i] = d.heritage.port(p); inherited[i] > 0 && p.Type == config.TUN {
			inForce[p.NetNS] = true
		}
	}
	return inherited, inForce
}

// openPort makes, or takes, the device of a port. mac is tunlb's own on its segment. inherited is a predecessor's descriptor of the
// device, 0 is none; it is openPort's.
func openPort(p config.Port, mac packet.MAC, inherited int) (port.Port, error) {
	offload, err := port.ParseOffload(p.Offload)
	if err != nil {
		if inherited > 0 {
			closeDescriptor(inherited)
		}
		return nil, err
	}
	switch p.Type {
	case config.TAP:
		// The kernel's end has a MAC of its own, as every end of a cable. A bridge takes the lowest one of
		// its ports for itself, and would lose the one that its neighbours know: hence the high one.
		device := mac
		device[0] = 0xfe
		return port.OpenTAP(port.TAPConfig{
			Name: p.Name, MTU: p.MTU, NetNS: p.NetNS, Offload: offload, MAC: device, Bridge: p.Bridge, Inherited: inherited,
		})
	case config.Packet:
		cfg := port.PacketConfig{Interface: p.Name, NetNS: p.NetNS, Offload: offload, Inherited: inherited}
		switch {
		case p.Box():
			cfg.Claim = &packet.Claim{} // nothing before somebody is there to take it
		case p.Side == "":
			cfg.Station = mac // others' frames are nothing to a host
		}
		return port.OpenPacket(cfg)
	default:
		return port.OpenTUN(port.TUNConfig{Name: p.Name, MTU: p.MTU, NetNS: p.NetNS, Offload: offload, Inherited: inherited})
	}
}

// ownMACs are tunlb's own by port: the configured one of the segment, or one made of what stays the same
// over restarts.
func ownMACs(cfg *config.Config) []packet.MAC {
	macs := make([]packet.MAC, len(cfg.Ports))
	for _, segment := range cfg.Segments() {
		mac := packet.MAC(segment.MAC)
		if mac.IsZero() {
			seed := sha256.New()
			// One address tells two on one machine apart; more may come later, and the MAC stays.
			fmt.Fprintf(seed, "tunlb %s %s", machine(), segment.Own[0])
			for _, i := range segment.Ports {
				fmt.Fprintf(seed, " %s %s", cfg.Ports[i].NetNS, cfg.Ports[i].Name)
			}
			mac = packet.MAC(seed.Sum(nil))
			mac[0] = 0x02 // locally administered, one station
		}
		for _, i := range segment.Ports {
			macs[i] = mac
		}
	}
	return macs
}

// machine tells this machine from others on its network.
func machine() string {
	if id, err := os.ReadFile("/etc/machine-id"); err == nil && len(id) > 0 {
		return string(id)
	}
	name, _ := os.Hostname() // without either, the names of ports and addresses have to do
	return name
}
