package kernel

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// memory is what Close undoes and the kernel itself does not say: the rest it tells by rules, routes and notes. Device numbers mean
// something in one namespace only.
type memory struct {
	Namespace [2]uint64       `json:"namespace"` // device and inode
	Saved     []memorySetting `json:"saved,omitempty"`
	Raised    []memoryLink    `json:"raised,omitempty"`
	Added     []memoryAddress `json:"added,omitempty"`
}

type memorySetting struct {
	Path  string `json:"path"`
	Value string `json:"value"`
	Index int    `json:"index"`
}

type memoryLink struct {
	Name  string `json:"name"`
	Index int    `json:"index"`
}

type memoryAddress struct {
	Prefix netip.Prefix `json:"prefix"`
	Device string       `json:"device"`
	Index  int          `json:"index"`
}

// Remember is what a successor's Recall takes, so that its Close puts everything back as it was before the first of them. It is to
// be kept after each Apply and Watch that changed something: the same bytes as before mean that nothing has.
func (k *Kernel) Remember() []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	m := memory{Namespace: k.identity()}
	for _, s := range k.saved {
		m.Saved = append(m.Saved, memorySetting{s.path, s.value, s.index})
	}
	for _, r := range k.raised {
		m.Raised = append(m.Raised, memoryLink{r.name, r.index})
	}
	for a := range k.added {
		m.Added = append(m.Added, memoryAddress{a.prefix, a.dev, a.index})
	}
	slices.SortFunc(m.Added, func(a, b memoryAddress) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Index, b.Index))
	})
	b, err := json.Marshal(m)
	if err != nil { // of strings and numbers
		panic(err)
	}
	return b
}

// Recall takes in what a predecessor remembered of this namespace, before the first Apply: what that has changed is this one's to
// undo. What was remembered of another namespace that was at the same place counts for nothing.
func (k *Kernel) Recall(remembered []byte) error {
	var m memory
	if err := json.Unmarshal(remembered, &m); err != nil {
		return fmt.Errorf("recall what a predecessor has changed: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return os.ErrClosed
	}
	if m.Namespace != k.identity() {
		return nil
	}
	for _, s := range m.Saved {
		k.saved = append(k.saved, savedSetting{setting{s.Path, s.Value}, s.Index})
	}
	for _, r := range m.Raised {
		k.raised = append(k.raised, raisedLink{r.Name, r.Index})
	}
	for _, a := range m.Added {
		k.added[address{a.Prefix, a.Device, a.Index}] = true
	}
	return nil
}

// Leave is Close that undoes nothing, for a successor to go on with.
func (k *Kernel) Leave() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.closed {
		k.closed = true
		k.release()
	}
}

// identity tells the namespace from others.
func (k *Kernel) identity() [2]uint64 {
	var st unix.Stat_t
	if err := unix.Fstat(int(k.ns), &st); err != nil {
		return [2]uint64{}
	}
	return [2]uint64{uint64(st.Dev), st.Ino}
}
