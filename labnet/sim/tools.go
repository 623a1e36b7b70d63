package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// seconds reads a flag that is a time; none is the default.
func seconds(flag []string, otherwise time.Duration) (time.Duration, error) {
	if len(flag) == 0 {
		return otherwise, nil
	}
	s, err := strconv.ParseFloat(flag[0], 64)
	if err != nil || s <= 0 {
		return 0, fmt.Errorf("%q: want seconds", flag[0])
	}
	return time.Duration(s * float64(time.Second)), nil
}

// ping asks for echoes, one a second.
func ping(c *call) int {
	flags, operands, err := c.options("46n", "cW")
	count := 4
	if err == nil && len(flags['c']) > 0 {
		if count, err = strconv.Atoi(flags['c'][0]); err != nil || count < 1 {
			err = fmt.Errorf("-c %q: want a number", flags['c'][0])
		}
	}
	patience, err2 := seconds(flags['W'], time.Second)
	if err = errors.Join(err, err2); err == nil && len(operands) != 1 {
		err = errors.New("want one address")
	}
	if err != nil {
		return c.misused(err.Error())
	}
	at, err := c.lab.resolve(operands[0], "")
	if err != nil {
		fmt.Fprintf(c.Err, "ping: %v\n", err)
		return exitUsage
	}
	to, heard := at.Addr(), 0
	fmt.Fprintf(c.Out, "PING %s\n", to)
	for i := range count {
		begin := c.lab.Now()
		ctx, cancel := c.lab.clock.WithTimeout(c.ctx, patience, context.DeadlineExceeded)
		took, err := c.host.ping(ctx, to)
		cancel()
		switch {
		case err == nil:
			heard++
			fmt.Fprintf(c.Out, "answer from %s: seq=%d time=%.3f ms\n", to, i+1, float64(took)/float64(time.Millisecond))
		case c.ctx.Err() != nil:
			return exitEnded
		case errors.Is(err, context.DeadlineExceeded):
			fmt.Fprintf(c.Out, "no answer: seq=%d\n", i+1)
		default:
			fmt.Fprintln(c.Out, err)
		}
		if i < count-1 && !c.pause(time.Second-(c.lab.Now()-begin)) {
			return exitEnded
		}
	}
	fmt.Fprintf(c.Out, "%d sent, %d answered, %d%% lost\n", count, heard, (count-heard)*100/count)
	if heard == 0 {
		return exitFailed
	}
	return 0
}

// pause waits by the lab's clock, and reports false if the command is ended first.
func (c *call) pause(d time.Duration) bool {
	ctx, cancel := c.lab.clock.WithTimeout(c.ctx, d, nil)
	defer cancel()
	<-ctx.Done()
	return c.ctx.Err() == nil
}

// netcat connects standard input and output with a port, until the other end closes or, of UDP, nothing has come for
// a while.
func netcat(c *call) int {
	flags, operands, err := c.options("uNzvn", "w")
	wait, err2 := seconds(flags['w'], 0)
	if err = errors.Join(err, err2); err == nil && len(operands) != 2 {
		err = errors.New("want an address and a port")
	}
	if err != nil {
		return c.misused(err.Error())
	}
	to, err := c.lab.resolve(operands[0], operands[1])
	if err != nil {
		return c.netcatFailed(err)
	}
	network := "tcp"
	if flags['u'] != nil {
		network = "udp"
		if wait == 0 {
			wait = time.Second
		}
	}
	ctx := c.ctx
	if wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = c.lab.clock.WithTimeout(ctx, wait, context.DeadlineExceeded)
		defer cancel()
	}
	conn, err := c.host.dial(ctx, network, to)
	if err != nil {
		return c.netcatFailed(err)
	}
	defer conn.Close()
	if flags['z'] != nil {
		return 0
	}
	return c.converse(conn, network, wait)
}

func (c *call) netcatFailed(err error) int {
	fmt.Fprintf(c.Err, "nc: %v\n", err)
	return exitFailed
}

// converse copies both ways. Whoever gave a standard input that never ends waits for his own end: reading cannot be
// broken off.
func (c *call) converse(conn net.Conn, network string, wait time.Duration) int {
	stop := context.AfterFunc(c.ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if c.In != nil {
		send := func() {
			_, _ = io.Copy(conn, c.In) // an end of the connection shows in reading
			if half, ok := conn.(interface{ CloseWrite() error }); ok && network == "tcp" {
				_ = half.CloseWrite()
			}
		}
		if network == "udp" {
			send() // all of it, then the answers
		} else {
			go send()
		}
	}
	buf := make([]byte, 64<<10)
	for {
		if wait > 0 {
			_ = conn.SetReadDeadline(time.Now().Add(wait))
		}
		n, err := conn.Read(buf)
		if _, werr := c.Out.Write(buf[:n]); werr != nil {
			return c.netcatFailed(werr)
		}
		var timeout net.Error
		switch {
		case err == nil:
		case c.ctx.Err() != nil:
			return exitEnded
		case errors.Is(err, io.EOF), errors.As(err, &timeout) && timeout.Timeout():
			return 0
		default:
			return c.netcatFailed(err)
		}
	}
}

// ipCommand shows what Linux' ip does, in its form as far as it goes.
func ipCommand(c *call) int {
	_, operands, err := c.options("46", "")
	if err != nil || len(operands) == 0 {
		return c.misused("want addr, route or neigh")
	}
	switch what := operands[0]; {
	case strings.HasPrefix("address", what):
		c.showAddresses()
	case strings.HasPrefix("route", what):
		for _, r := range c.host.stack.GetRouteTable() {
			c.showRoute(r)
		}
	case strings.HasPrefix("neighbour", what) || strings.HasPrefix("neighbor", what):
		c.showNeighbours()
	default:
		return c.misused(fmt.Sprintf("%q: want addr, route or neigh", what))
	}
	return 0
}

func (c *call) showAddresses() {
	show := func(a netip.Prefix) {
		family := "inet"
		if a.Addr().Is6() {
			family = "inet6"
		}
		fmt.Fprintf(c.Out, "    %s %s\n", family, a)
	}
	fmt.Fprintf(c.Out, "1: lo: <LOOPBACK,UP> mtu 65536\n    inet 127.0.0.1/8\n    inet6 ::1/128\n")
	for _, a := range c.host.file.Loopback {
		show(a)
	}
	for i, n := range c.host.nics {
		fmt.Fprintf(c.Out, "%d: %s: <BROADCAST,MULTICAST,UP> mtu %d\n    link/ether %s\n", i+2, n.name, n.mtu, n.mac)
		for _, a := range c.host.file.Attachments[i].Addresses {
			show(a)
		}
	}
}

func (c *call) interfaceName(id tcpip.NICID) string {
	if id == loopbackNIC {
		return "lo"
	}
	return c.host.nics[id-firstNIC].name
}

func (c *call) showRoute(r tcpip.Route) {
	to := netipAddr(r.Destination.ID()).String() + "/" + strconv.Itoa(r.Destination.Prefix())
	if r.Destination == header.IPv4EmptySubnet || r.Destination == header.IPv6EmptySubnet {
		to = "default"
	}
	if r.Gateway.BitLen() > 0 {
		to += " via " + netipAddr(r.Gateway).String()
	}
	fmt.Fprintf(c.Out, "%s dev %s\n", to, c.interfaceName(r.NIC))
}

func (c *call) showNeighbours() {
	for i, n := range c.host.nics {
		for _, protocol := range [...]tcpip.NetworkProtocolNumber{header.IPv4ProtocolNumber, header.IPv6ProtocolNumber} {
			known, _ := c.host.stack.Neighbors(firstNIC+tcpip.NICID(i), protocol) // no interface, no neighbours
			for _, k := range known {
				fmt.Fprintf(c.Out, "%s dev %s lladdr %s %s\n", netipAddr(k.Addr), n.name, net.HardwareAddr(k.LinkAddr), strings.ToUpper(k.State.String()))
			}
		}
	}
}

func netipAddr(a tcpip.Address) netip.Addr {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return addr
}
