package port

import (
	"cmp"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/stack/packet"
)

// tapDevice is the endpoint of a TAP, which wireguard does not know.
type tapDevice struct {
	*ethernet
	tuntap
}

func openTAP(cfg TAPConfig) (p Port, err error) {
	err = inNetNS(cfg.NetNS, func() (err error) {
		p, err = openTAPHere(cfg)
		return err
	})
	return p, err
}

// openTAPHere makes the device in the calling thread's network namespace.
func openTAPHere(cfg TAPConfig) (Port, error) {
	fd, name, _, err := attachOr(cfg.Inherited, cfg.name(), unix.IFF_TAP)
	if err != nil {
		return nil, err
	}
	ctl, err := newControl(name, 0)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	dev := tapDevice{newEthernet(ctl, cfg.mtu()), tuntap(fd)}
	err = dev.prepare(cfg)
	if err == nil {
		var p *rawPort
		if p, err = newRawPort(dev, fd, fd, -1); err == nil {
			return p, nil
		}
	}
	dev.close()
	return nil, err
}

// prepare makes the device what it is to be before it is set up. It joins the
// bridge last, with the MAC that the bridge may make its own.
func (d tapDevice) prepare(cfg TAPConfig) error {
	if err := unix.SetNonblock(int(d.tuntap), true); err != nil {
		return err
	}
	if err := d.setOffload(cfg.Offload); err != nil {
		return err
	}
	if err := d.setQueue(cfg.mtu(), cmp.Or(cfg.TxQueueLen, txQueueLen)); err != nil {
		return err
	}
	if !cfg.MAC.IsZero() {
		if err := d.setMAC(cfg.MAC); err != nil {
			return err
		}
	}
	if cfg.Bridge != "" {
		return d.join(cfg.Bridge)
	}
	return nil
}

// close removes the device: the kernel does so when its last descriptor is closed,
// here before close returns.
func (d tapDevice) close() error {
	err := unix.Close(int(d.tuntap))
	d.ethernet.close()
	return err
}

func (c *control) setMAC(mac packet.MAC) error {
	if err := c.set(unix.AF_UNSPEC, attr(unix.IFLA_ADDRESS, mac[:])); err != nil {
		return fmt.Errorf("set MAC %s: %w (it has to be a station's, such as fe:00:5e:10:00:01)", mac, err)
	}
	return nil
}

// join makes the device a port of the bridge, one that gets all multicast. Where somebody on
// the segment queries for listeners, a bridge otherwise sends a group's frames only to those
// who reported it, and neighbour solicitations go to groups.
func (c *control) join(bridge string) error {
	const always = 2 // MDB_RTR_TYPE_PERM (linux/if_bridge.h)
	index, err := c.bridge(bridge)
	if err == nil {
		err = c.setNumber(unix.IFLA_MASTER, int(index))
	}
	if err == nil {
		router := attr(unix.IFLA_BRPORT_MULTICAST_ROUTER, []byte{always})
		err = c.set(unix.AF_BRIDGE, attr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, router))
	}
	if err != nil {
		return fmt.Errorf("join bridge %q: %w", bridge, err)
	}
	return nil
}

// bridge finds a bridge that is up. Other devices that take members, such as bonds,
// would take ours without an error.
func (c *control) bridge(name string) (index uint32, err error) {
	index, err = c.get(name, unix.SIOCGIFINDEX)
	if err != nil {
		return 0, fmt.Errorf("%w: run `ip link add %s type bridge && ip link set %[2]s up`", err, name)
	}
	info, err := unix.IoctlGetEthtoolDrvinfo(c.fd, name)
	if err != nil || unix.ByteSliceToString(info.Driver[:]) != "bridge" {
		return 0, errors.New("it is no bridge: take one of `ip link show type bridge`, or run `ip link add br0 type bridge && ip link set br0 up`")
	}
	flags, err := c.get(name, unix.SIOCGIFFLAGS)
	if err != nil {
		return 0, err
	}
	if flags&unix.IFF_UP == 0 {
		return 0, fmt.Errorf("%w, and passes no frames: run `ip link set %s up`", ErrDown, name)
	}
	return index, nil
}
