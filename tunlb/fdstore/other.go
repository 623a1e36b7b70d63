//go:build !linux

package fdstore

// manager is nobody: descriptors are not handed on here.
type manager struct{ address string }

func (manager) store(string, int) error { return nil }
func (manager) forget(string) error     { return nil }
func (manager) barrier() error          { return nil }

func claim(int) bool             { return false }
func duplicate(int) (int, error) { return -1, ErrUnavailable }
func closeFD(int)                {}
func same(int, int) sameness     { return unknown }

func execWith(string, []string, []string, []int) error { return ErrUnavailable }
