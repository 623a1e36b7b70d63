package ipvs

import (
	"strings"

	"github.com/tunlb/tunlb/policy"
)

// flagNames are the flags of schedulers, each as those schedulers call it that have a name for it, and as the
// others do.
var flagNames = []struct {
	flag            policy.Flags
	sh, mh, another string
}{
	{policy.Fallback, "sh-fallback", "mh-fallback", "flag-1"},
	{policy.HashPort, "sh-port", "mh-port", "flag-2"},
	{policy.FlagThree, "flag-3", "flag-3", "flag-3"},
}

// schedulerFlags reads the flags once the scheduler is known.
func (p *parser) schedulerFlags() error {
	for name := range strings.SplitSeq(p.flags, ",") {
		if name == "" {
			continue
		}
		known, fits := false, false
		for _, f := range flagNames {
			if name != f.sh && name != f.mh && name != f.another {
				continue
			}
			known = true
			fits = name == f.another || name == f.sh && p.Scheduler == "sh" || name == f.mh && p.Scheduler == "mh"
			p.Flags |= f.flag
		}
		switch {
		case !known:
			return usage("invalid scheduler flag `%s'", name)
		case !fits:
			return usage("incompatible scheduler flag `%s'", name)
		}
	}
	return nil
}

// flagsText is a list of flags as the scheduler calls them.
func flagsText(flags policy.Flags, scheduler string) string {
	var names []string
	for _, f := range flagNames {
		if flags&f.flag == 0 {
			continue
		}
		switch scheduler {
		case "sh":
			names = append(names, f.sh)
		case "mh":
			names = append(names, f.mh)
		default:
			names = append(names, f.another)
		}
	}
	return strings.Join(names, ",")
}
