package importer

import "github.com/tunlb/tunlb/tunlb/keepalived"

// Keepalived prints the configuration of the virtual servers in a keepalived.conf and the files that it
// includes. An error is one of its grammar, or of include.
func Keepalived(src keepalived.Source, include keepalived.Include) ([]byte, error) {
	services, err := keepalived.Import(src, include)
	if err != nil {
		return nil, err
	}
	f := file{source: src.Name, notes: services.Notes, specs: services.Specs}
	return f.print()
}
