package importer

import (
	"fmt"
	"strings"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/keepalived"
)

// Keepalived prints the configuration of the virtual servers in a keepalived.conf and the files that it
// includes. An error is one of its grammar, or of include.
func Keepalived(src keepalived.Source, include keepalived.Include) ([]byte, error) {
	services, err := keepalived.Import(src, include)
	if err != nil {
		return nil, err
	}
	f := file{source: src.Name, warning: services.Warning, notes: services.Notes, timeouts: timeoutsText(services.Timeouts), specs: services.Specs}
	return f.print()
}

// timeoutsText is those of LVS that are set, in YAML.
func timeoutsText(t policy.Timeouts) string {
	var set []string
	for _, f := range []struct {
		name  string
		value time.Duration
	}{{"established", t.Established}, {"fin_wait", t.FinWait}, {"udp", t.UDP}} {
		if f.value != 0 {
			set = append(set, fmt.Sprintf("%s: %ds", f.name, f.value/time.Second))
		}
	}
	if len(set) == 0 {
		return ""
	}
	return "{" + strings.Join(set, ", ") + "}"
}
