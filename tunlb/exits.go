package tunlb

import (
	"errors"

	"github.com/tunlb/tunlb/tunlb/flow"
)

// exits are the numbers by which flows name ports. A port keeps its number from process to process, whatever its place among
// the ports is: records are never renumbered, so that it does not matter when a process is killed that takes them over.
// Fixed once the engine is made.
type exits struct {
	number [256]uint8 // in flows, by a lane's id
	lane   [256]uint8 // id of the lane that stands for the port, by number
	taken  [256]bool  // the number is a port's
}

// portName is a port and its number, as a successor has to know it.
type portName struct {
	Number      uint8
	Name, NetNS string
}

// errPorts is for more than a hundred ports under other names.
var errPorts = errors.New("there are not enough numbers for the ports of both")

// assign gives ports the numbers that they have had, and others those that nobody has had. It is called when the lanes' homes are
// known. On an error nothing has changed.
func (x *exits) assign(lanes []*lane, before []portName) error {
	y := exits{}
	had, used := map[[2]string]uint8{}, [256]bool{}
	for _, p := range before {
		if p.Number < maxPorts && !used[p.Number] {
			had[[2]string{p.Name, p.NetNS}], used[p.Number] = p.Number, true
		}
	}
	next := 0
	for _, l := range lanes {
		n, ok := had[[2]string{l.Port.Name(), l.NetNS}]
		if !ok || y.taken[n] {
			for next < maxPorts && used[next] {
				next++
			}
			if next == maxPorts {
				return errPorts
			}
			n, used[next] = uint8(next), true
		}
		y.set(l.id, n, l.home)
	}
	y.set(exitDirectPort, exitDirectPort, exitDirectPort)
	y.set(exitHostPort, exitHostPort, exitHostPort)
	*x = y
	return nil
}

func (x *exits) set(id, number, home uint8) {
	x.number[id], x.lane[number], x.taken[number] = number, home, true
}

// names are what a successor assigns by.
func (x *exits) names(lanes []*lane) (names []portName) {
	for _, l := range lanes {
		names = append(names, portName{x.number[l.id], l.Port.Name(), l.NetNS})
	}
	return names
}

// setExits stores which lanes a flow's packets leave by.
func (e *Engine) setExits(f *flow.Flow, forward, reverse uint8) {
	f.SetExit(flow.Forward, e.exits.number[forward])
	f.SetExit(flow.Reverse, e.exits.number[reverse])
}

// exitOf is the lane that packets of direction d leave by, exitDirectPort or exitHostPort.
func (e *Engine) exitOf(f *flow.Flow, d flow.Direction) uint8 { return e.exits.lane[f.Exit(d)] }

// leadsSomewhere says whether there still is what a predecessor's flow leaves by. What its stack had a part in is not.
func (e *Engine) leadsSomewhere(f *flow.Flow, d flow.Direction) bool {
	switch n := f.Exit(d); n {
	case exitHostPort:
		return false
	case exitDirectPort:
		return e.direct != nil
	default:
		return e.exits.taken[n]
	}
}
