package kernel

import (
	"errors"
	"fmt"
	"slices"
)

// ledger records changes as they are made, so that they can be taken back or reported. The zero value is
// ready to use, by one goroutine.
type ledger struct {
	done  []string // the commands that have been carried out
	undos []func() error
	// stubborn makes step go on after a failure, as clearing up must; the errors gather in errs.
	stubborn bool
	errs     []error
}

// step carries out do, which command is another way to do, and remembers undo.
func (l *ledger) step(command string, do, undo func() error) error {
	if err := do(); err != nil {
		err = fmt.Errorf("%s: %w", command, err)
		if l.stubborn {
			l.errs = append(l.errs, err)
			return nil
		}
		return err
	}
	l.done = append(l.done, command)
	l.undos = append(l.undos, undo)
	return nil
}

// rollback takes all steps back, the last one first.
func (l *ledger) rollback() error {
	var errs []error
	for _, undo := range slices.Backward(l.undos) {
		errs = append(errs, undo())
	}
	*l = ledger{}
	return errors.Join(errs...)
}

// add adds those of want that k lacks.
func (l *ledger) add(k *Kernel, want, have []object) error {
	present := set(have)
	for _, o := range want {
		if present[o] {
			continue
		}
		if err := l.addOne(k, o); err != nil {
			return err
		}
	}
	return nil
}

func (l *ledger) addOne(k *Kernel, o object) error {
	return l.step(o.command("add"), func() error { return k.add(o) }, func() error { return k.del(o) })
}

// remove deletes those of have that are not wanted, the last one first.
func (l *ledger) remove(k *Kernel, have, want []object) error {
	wanted := set(want)
	for _, o := range slices.Backward(have) {
		if wanted[o] {
			continue
		}
		if err := l.removeOne(k, o); err != nil {
			return err
		}
	}
	return nil
}

// set makes looking for one of many objects cheap.
func set(list []object) map[object]bool {
	m := make(map[object]bool, len(list))
	for _, o := range list {
		m[o] = true
	}
	return m
}

func (l *ledger) removeOne(k *Kernel, o object) error {
	return l.step(o.command("del"), func() error { return k.del(o) }, func() error { return k.add(o) })
}

// lower sets a device down again, if it is still there.
func (l *ledger) lower(k *Kernel, r raisedLink) {
	link, err := k.links.LinkByIndex(r.index)
	if err != nil {
		return
	}
	_ = l.step("ip link set dev "+r.name+" down", func() error { return k.links.LinkSetDown(link) }, nil)
}

// restore writes a device's setting as it was, if it is still the same device.
func (l *ledger) restore(k *Kernel, s savedSetting) {
	if _, err := k.links.LinkByIndex(s.index); err != nil {
		return
	}
	_ = l.step(s.command(), func() error { return k.write(s.setting) }, nil)
}
