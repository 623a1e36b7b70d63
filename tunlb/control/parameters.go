package control

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/tunlb/tunlb/tunlb"
)

// query is a request's parameters. Its methods keep the first error where one is set already.
type query struct{ url.Values }

// parameters reads them strictly. An empty one is refused, too: `?server=` of a script whose variable is
// empty must not mean every server.
func parameters(r *http.Request, known ...string) (query, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return query{}, fmt.Errorf("parameters: %w", err)
	}
	for key, all := range values {
		switch {
		case len(known) == 0:
			return query{}, fmt.Errorf("parameter %q: there is none here", key)
		case !slices.Contains(known, key):
			return query{}, fmt.Errorf("parameter %q: want %s", key, strings.Join(known, ", "))
		case len(all) != 1 || all[0] == "":
			return query{}, fmt.Errorf("parameter %q: want one value that is not empty", key)
		}
	}
	return query{values}, nil
}

// is reads a truth.
func (q query) is(name string, err *error) bool {
	if *err != nil || !q.Has(name) {
		return false
	}
	b, e := strconv.ParseBool(q.Get(name))
	if e != nil {
		*err = fmt.Errorf("%s: want %[1]s=1 or %[1]s=0", name)
	}
	return b
}

// number reads a number that is not negative.
func (q query) number(name string, otherwise int64, err *error) int64 {
	if *err != nil || !q.Has(name) {
		return otherwise
	}
	n, e := strconv.ParseInt(q.Get(name), 10, 64)
	if e != nil || n < 0 {
		*err = fmt.Errorf("%s: want a number, like %[1]s=100", name)
	}
	return n
}

// filterParameters are those of a tunlb.ConnFilter, and one more.
func filterParameters(more string) []string {
	return []string{"service", "server", "client", "templates", more}
}

func (q query) filter(err *error) tunlb.ConnFilter {
	f := tunlb.ConnFilter{Service: q.Get("service"), Server: q.Get("server"), Templates: q.is("templates", err)}
	if *err == nil && q.Has("client") {
		f.Client, *err = ParseClient(q.Get("client"))
	}
	return f
}

// encode is the inverse of query.filter.
func encode(f tunlb.ConnFilter) url.Values {
	v := url.Values{}
	if f.Service != "" {
		v.Set("service", f.Service)
	}
	if f.Server != "" {
		v.Set("server", f.Server)
	}
	if f.Client.IsValid() {
		v.Set("client", f.Client.String())
	}
	if f.Templates {
		v.Set("templates", "1")
	}
	return v
}

// ParseClient reads an address, or a network as address/bits, to filter connections by.
func ParseClient(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("client: %q: want an address or a network, like 198.51.100.7 or 2001:db8::/32", s)
	}
	a = a.Unmap()
	return netip.PrefixFrom(a, a.BitLen()), nil
}
