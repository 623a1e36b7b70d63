package kernel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"sync/atomic"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Watch blocks and calls changed with the present View at once, and again whenever the View has changed, the
// device was touched, or one of our rules or routes was deleted (network managers do that). Calls come one
// at a time, on the goroutine that called Watch; they may leave out states in between but never the last one.
// Watch returns nil when ctx ends, or the error that keeps it from watching; end it before Close.
//
// To follow the box, let changed call Apply with the State in force: it changes nothing if nothing must change.
func (k *Kernel) Watch(ctx context.Context, device string, changed func(View)) error {
	w := watcher{k: k, device: device, events: make(chan bool, 1), failed: make(chan error, 1)}
	if err := w.subscribe(); err != nil {
		return fmt.Errorf("watch the kernel: %w", err)
	}
	go w.listen()
	defer func() { <-w.failed }() // listen has ended
	defer w.stop()
	var last View
	for touched := true; ; {
		view, err := k.view(device)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("watch the kernel: %w", err)
		case touched || !reflect.DeepEqual(view, last):
			changed(view)
			last = view
		}
		select {
		case touched = <-w.events:
		case err := <-w.failed:
			w.failed <- err // for the one who waits for listen
			return fmt.Errorf("watch the kernel: %w", err)
		case <-ctx.Done():
			return nil
		}
	}
}

// watcher is one call of Watch.
type watcher struct {
	k      *Kernel
	device string
	socket *nl.NetlinkSocket

	stopped atomic.Bool
	events  chan bool  // something has happened; true: in any case tell the caller. One is pending at most.
	failed  chan error // why listen has ended
}

func (w *watcher) subscribe() error {
	return w.k.inside(func() (err error) {
		w.socket, err = nl.Subscribe(unix.NETLINK_ROUTE,
			unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
			unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
		return err
	})
}

// stop ends listen.
func (w *watcher) stop() {
	w.stopped.Store(true)
	w.socket.Close()
}

// listen turns the kernel's messages into events until the socket is closed.
func (w *watcher) listen() {
	for {
		messages, _, err := w.socket.Receive()
		happened, touched := false, false
		switch {
		case w.stopped.Load(): // the errors of a closed socket are many
			w.failed <- nil
			return
		case errors.Is(err, unix.ENOBUFS): // messages were lost, perhaps the one that matters
			happened, touched = true, true
		case errors.Is(err, unix.EINTR):
		case err != nil:
			w.failed <- err
			return
		}
		for _, m := range messages {
			h, t := w.judge(m)
			happened, touched = happened || h, touched || t
		}
		if !happened {
			continue
		}
		select {
		case pending := <-w.events:
			touched = touched || pending
		default:
		}
		w.events <- touched
	}
}

// judge says whether m may change the view, and whether the caller must look after what it has applied.
func (w *watcher) judge(m syscall.NetlinkMessage) (happened, touched bool) {
	deleted := m.Header.Type == unix.RTM_DELROUTE || m.Header.Type == unix.RTM_DELRULE
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return true, linkName(m.Data) == w.device
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return true, false
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		// A router's table changes all the time: only the routes that make the view count, and those that
		// make an address the box's own.
		r, err := decodeRoute(m.Data)
		touched = err == nil && (deleted && r.protocol == protocol || r.table == unix.RT_TABLE_LOCAL && r.kind == unix.RTN_LOCAL)
		return touched || err == nil && r.table == unix.RT_TABLE_MAIN && !r.gateway, touched
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		r, err := decodeRule(m.Data)
		touched = err == nil && (deleted && r.protocol == protocol || !deleted && r.first())
		return touched, touched
	}
	return false, false
}

func linkName(m []byte) string {
	if len(m) < unix.SizeofIfInfomsg {
		return ""
	}
	attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfInfomsg:])
	if err != nil {
		return ""
	}
	for _, a := range attrs {
		if a.Attr.Type == unix.IFLA_IFNAME {
			return nl.BytesToString(a.Value)
		}
	}
	return ""
}

// view looks at the namespace as it is.
func (k *Kernel) view(device string) (View, error) {
	var v View
	addresses, err := k.addresses(unix.AF_UNSPEC)
	if err != nil {
		return v, err
	}
	for _, a := range addresses {
		v.Addresses = append(v.Addresses, Address{a.prefix, a.dev})
	}
	for _, family := range k.families() {
		routes, err := k.routes(family, unix.RT_TABLE_MAIN, 0)
		if err != nil {
			return v, err
		}
		for _, r := range routes {
			// A default route through a point-to-point device makes nobody a neighbour.
			if r.kind == unix.RTN_UNICAST && !r.gateway && r.dst.Bits() > 0 {
				v.OnLink = append(v.OnLink, OnLink{r.dst, r.dev})
			}
		}
	}
	slices.SortFunc(v.Addresses, func(a, b Address) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()), cmp.Compare(a.Device, b.Device))
	})
	slices.SortFunc(v.OnLink, func(a, b OnLink) int { return cmp.Or(a.Prefix.Compare(b.Prefix), cmp.Compare(a.Device, b.Device)) })
	link, err := k.links.LinkByName(device)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return v, nil
	}
	if err != nil {
		return v, fmt.Errorf("ip link show dev %s: %w", device, err)
	}
	v.DeviceUp = link.Attrs().Flags&net.FlagUp != 0
	return v, nil
}
