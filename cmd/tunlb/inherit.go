package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"os"
	"sync"

	"github.com/rs/zerolog"

	"github.com/tunlb/tunlb/stack/nft"
	"github.com/tunlb/tunlb/stack/port"
	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/control"
	"github.com/tunlb/tunlb/tunlb/fdstore"
	memory "github.com/tunlb/tunlb/tunlb/keep"
)

// What a tunlb has from its predecessor, which was killed or has become it, and leaves to its successor: descriptors. While
// somebody has them open the devices stay, with the packets that wait in their queues, and so do the tables of nf_tables.

// Names of descriptors, besides those of TUNs and TAPs: see heirloom.
const (
	keptFlows   = "flows"       // memory with the connections: tunlb/keep
	keptKernels = "kernels"     // memory with what the kernels were like before the first of the line
	keptControl = "control"     // the listening control socket
	keptDirect  = "direct"      // the packet socket by which frames leave by all interfaces
	keptGuard   = "nft.guard"   // the socket that owns the guard's table
	keptCarrier = "nft.carrier" // likewise
)

// heirloom is the name of a port's descriptor. Each network namespace may have a device of the name.
func heirloom(p *config.Port) string {
	name := "tun." + p.Name
	if p.Type == config.Packet {
		name = "packet." + p.Name
	}
	if p.NetNS == "" {
		return name
	}
	h := fnv.New32a()
	h.Write([]byte(p.NetNS))
	return fmt.Sprintf("%s.%08x", name, h.Sum32())
}

// heritage is a daemon's part in such a line. The zero value has no predecessor and will have no successor. Safe for
// concurrent use.
type heritage struct {
	store *fdstore.Store // nil: none
	log   zerolog.Logger

	mu     sync.Mutex
	had    bool           // something was inherited
	taken  map[string]int // and has not found its use yet
	memory *memory.Memory // of the kernels; nil: none
	known  []byte         // what is in it
}

// inheritFrom takes from the store what this configuration may have a use for. What it has none for is closed: a device that is no port
// any more goes, before somebody asks whether there are leftovers.
func inheritFrom(store *fdstore.Store, cfg *config.Config, log zerolog.Logger) *heritage {
	h := &heritage{store: store, log: log, taken: map[string]int{}}
	if store == nil {
		return h
	}
	names := []string{keptFlows, keptKernels, keptControl, keptDirect, keptGuard, keptCarrier}
	for i := range cfg.Ports {
		names = append(names, heirloom(&cfg.Ports[i]))
	}
	for _, name := range names {
		if fd, ok := store.Take(name); ok {
			h.taken[name], h.had = fd, true
		}
	}
	h.distrust()
	names, err := store.Discard()
	if len(names) > 0 || err != nil {
		log.Warn().Err(err).Strs("names", names).Msg("a predecessor left what this configuration has no use for")
	}
	return h
}

// mostTries is how many processes in a row may die before they balance, with what a predecessor has left. It may be why.
const mostTries = 2

// distrust drops what was inherited if too many have died of it. Managers can't tell that from a broken binary or file, and give up before long.
func (h *heritage) distrust() {
	fd, ok := h.taken[keptFlows]
	if !ok {
		return
	}
	before, err := memory.Try(fd)
	if err != nil || before < mostTries {
		return // what is of no use is refused later
	}
	h.log.Error().Strs("names", h.store.Names()).Int("tries", before).
		Msg("others have died before they balanced: what a predecessor has left may be why, and is dropped. Connections are lost")
	h.settle()
	h.had = false
}

// take gives an inherited descriptor to the caller.
func (h *heritage) take(name string) (fd int, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fd, ok = h.taken[name]
	delete(h.taken, name)
	return fd, ok
}

// leave puts a descriptor, which stays the caller's, where a successor finds it.
func (h *heritage) leave(name string, fd int) {
	if h.store == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leaveLocked(name, fd)
}

func (h *heritage) leaveLocked(name string, fd int) {
	if err := h.store.Put(name, fd); err != nil {
		h.log.Warn().Err(err).Msgf("%s will not outlive this process", name)
	}
}

// refused is for something inherited that is of no use.
func (h *heritage) refused(name string, err error) {
	h.log.Warn().Err(errors.Join(err, h.store.Remove(name))).Msgf("%s is made anew: what a predecessor left can't be used", name)
}

// settle closes what has found no use.
func (h *heritage) settle() {
	h.mu.Lock()
	taken := h.taken
	h.taken = map[string]int{}
	h.mu.Unlock()
	for name, fd := range taken {
		closeDescriptor(fd)
		if err := h.store.Remove(name); err != nil {
			h.log.Warn().Err(err).Msgf("what a predecessor left as %s is not needed", name)
		}
	}
}

// disinherit is for a daemon that ends in good order: with its own descriptors everything goes. The control socket's path goes
// while somebody still listens there: nobody can have taken it.
func (h *heritage) disinherit(control net.Listener) error {
	if h.store == nil {
		return nil
	}
	h.settle()
	return errors.Join(unlink(control), h.store.Empty(), h.forget())
}

func unlink(l net.Listener) error {
	if l == nil {
		return nil
	}
	return control.Remove(l)
}

// goesOn says that another process will go on with what was inherited, whatever becomes of this one.
func (h *heritage) goesOn() bool { return h.had && h.store.Kept() }

func closeDescriptor(fd int) { os.NewFile(uintptr(fd), "inherited").Close() }

// port is the inherited descriptor of a port's device, 0 if there is none that fits.
func (h *heritage) port(p *config.Port) int {
	name := heirloom(p)
	fd, ok := h.take(name)
	if !ok {
		return 0
	}
	var err error
	switch p.Type {
	case config.Packet: // OpenPacket looks
	case config.TAP:
		err = port.TAPConfig{Name: p.Name, NetNS: p.NetNS}.Fits(fd)
	default:
		err = port.TUNConfig{Name: p.Name, NetNS: p.NetNS}.Fits(fd)
	}
	if err != nil {
		closeDescriptor(fd)
		h.refused(name, err)
		return 0
	}
	return fd
}

// leavePort leaves a port's device.
func (h *heritage) leavePort(p *config.Port, dev port.Port) {
	if fd, ok := port.Descriptor(dev); ok {
		h.leave(heirloom(p), fd)
	}
}

// listen makes the control socket, or goes on listening at the predecessor's.
func (h *heritage) listen(socket string, cfg config.Control) (net.Listener, error) {
	allow, err := control.ParseAllow(cfg.Users, cfg.Groups)
	if err != nil {
		return nil, err
	}
	l, err := h.listener(socket, cfg, allow)
	if err != nil || h.store == nil {
		return l, err
	}
	control.Keep(l)
	err = control.WithDescriptor(l, func(fd int) error {
		h.leave(keptControl, fd)
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, l.Close(), control.Remove(l))
	}
	return l, nil
}

func (h *heritage) listener(socket string, cfg config.Control, allow control.Allow) (net.Listener, error) {
	if fd, ok := h.take(keptControl); ok {
		l, err := control.Adopt(fd, socket, cfg.Mode, allow)
		if err == nil {
			return l, nil
		}
		h.refused(keptControl, err)
	}
	return control.Listen(socket, cfg.Mode, allow)
}

// direct opens the way out of all interfaces, or goes on with the predecessor's. That one leaves its socket open, which to close takes the
// kernel 10 ms, is what matters: there is nothing in it.
func (h *heritage) direct() (*port.Direct, error) {
	fd, _ := h.take(keptDirect)
	d, err := port.OpenDirect("", fd)
	if err != nil {
		return nil, err
	}
	if fd, ok := d.Descriptor(); ok {
		h.leave(keptDirect, fd)
	}
	return d, nil
}

// guard opens the guard, or goes on with the predecessor's: adopted.
func (h *heritage) guard() (g *nft.Guard, adopted bool, err error) {
	if fd, ok := h.take(keptGuard); ok {
		if g, err = nft.AdoptGuard(fd); err != nil {
			h.refused(keptGuard, err)
		}
	}
	if adopted = g != nil; !adopted {
		if g, err = nft.OpenGuard(""); err != nil {
			return nil, false, err
		}
	}
	if fd, ok := g.Descriptor(); ok {
		h.leave(keptGuard, fd)
	}
	return g, adopted, nil
}

// carrier opens a carrier, or goes on with the predecessor's.
func (h *heritage) carrier(limit int) (c *nft.Carrier, err error) {
	if fd, ok := h.take(keptCarrier); ok {
		if c, err = nft.AdoptCarrier(fd, limit); err != nil {
			h.refused(keptCarrier, err)
		}
	}
	if c == nil {
		if c, err = nft.OpenCarrier("", limit); err != nil {
			return nil, err
		}
	}
	if fd, ok := c.Descriptor(); ok {
		h.leave(keptCarrier, fd)
	}
	return c, nil
}

// kernelsFormat is that of the memory of the kernels.
const kernelsFormat = 1

// remembered is what was kept of the kernels, by the ports' heirlooms.
func (h *heritage) remembered() (by map[string][]byte) {
	if h.store == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	err := h.openMemoryLocked()
	var words []byte
	if err == nil && h.memory != nil {
		h.leaveLocked(keptKernels, h.memory.Descriptor())
		words, err = h.memory.Words()
	}
	if err == nil && words != nil {
		err = json.Unmarshal(words, &by)
	}
	if err != nil {
		h.log.Warn().Err(err).Msg("what the kernel's settings were like before a predecessor started is not known")
	}
	return by
}

func (h *heritage) openMemoryLocked() error {
	fd, ok := h.taken[keptKernels]
	delete(h.taken, keptKernels)
	if !ok {
		return nil
	}
	m, err := memory.Open(fd, kernelsFormat)
	if err != nil {
		closeDescriptor(fd)
		return err
	}
	h.memory = m
	return nil
}

// remember keeps what the kernels were like before they were changed.
func (h *heritage) remember(networks []*network) {
	if h.store == nil {
		return
	}
	by := map[string][]byte{}
	for _, n := range networks {
		by[heirloom(&n.port)] = n.kernel.Remember()
	}
	b, err := json.Marshal(by)
	if err == nil {
		err = h.rewrite(b)
	}
	if err != nil {
		h.log.Warn().Err(err).Msg("a successor will not know what the kernel's settings were like before")
	}
}

func (h *heritage) rewrite(words []byte) (err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if bytes.Equal(words, h.known) {
		return nil
	}
	fresh := h.memory == nil
	if fresh {
		if h.memory, err = memory.Create(kernelsFormat); err != nil {
			return err
		}
	}
	if err := h.memory.SetWords(words); err != nil {
		return err
	}
	if fresh {
		h.leaveLocked(keptKernels, h.memory.Descriptor())
	}
	h.known = words
	return nil
}

// forget closes the memory of the kernels.
func (h *heritage) forget() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.memory == nil {
		return nil
	}
	m := h.memory
	h.memory, h.known = nil, nil
	return m.Close()
}
