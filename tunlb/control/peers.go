package control

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/user"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/rs/zerolog"

	"github.com/tunlb/tunlb/tunlb/gate"
)

// Allow says who may use the socket besides root and the daemon's own user. The zero value adds nobody. A
// plain value.
type Allow struct {
	UIDs, GIDs []uint32
}

// ParseAllow looks users and groups up, each a name or a number.
func ParseAllow(users, groups []string) (a Allow, err error) {
	for _, name := range users {
		uid, err := number(name, func() (string, error) {
			u, err := user.Lookup(name)
			if err != nil {
				return "", err
			}
			return u.Uid, nil
		})
		if err != nil {
			return Allow{}, fmt.Errorf("control: users: %q: %w; name one that there is, or give a number", name, err)
		}
		a.UIDs = append(a.UIDs, uid)
	}
	for _, name := range groups {
		gid, err := number(name, func() (string, error) {
			g, err := user.LookupGroup(name)
			if err != nil {
				return "", err
			}
			return g.Gid, nil
		})
		if err != nil {
			return Allow{}, fmt.Errorf("control: groups: %q: %w; name one that there is, or give a number", name, err)
		}
		a.GIDs = append(a.GIDs, gid)
	}
	return a, nil
}

// number is the one that name is, or else the one that lookup finds.
func number(name string, lookup func() (string, error)) (uint32, error) {
	n, err := strconv.ParseUint(name, 10, 32)
	if err == nil {
		return uint32(n), nil
	}
	found, err := lookup()
	if err != nil {
		return 0, err
	}
	if n, err = strconv.ParseUint(found, 10, 32); err != nil {
		return 0, err
	}
	return uint32(n), nil
}

// none says whether it adds nobody.
func (a Allow) none() bool { return len(a.UIDs)+len(a.GIDs) == 0 }

// has says whether a peer may, as self's daemon sees it. groups looks up what groups a user is in.
func (a Allow) has(p peer, self int, groups func(uid uint32) []uint32) bool {
	switch {
	case p.uid == 0, int(p.uid) == self, slices.Contains(a.UIDs, p.uid), slices.Contains(a.GIDs, p.gid):
		return true
	case len(a.GIDs) == 0:
		return false
	}
	return slices.ContainsFunc(groups(p.uid), func(gid uint32) bool { return slices.Contains(a.GIDs, gid) })
}

// groupsOf are a user's groups by the user database; none if it doesn't know the user.
func groupsOf(uid uint32) (gids []uint32) {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return nil
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil
	}
	for _, id := range ids {
		if n, err := strconv.ParseUint(id, 10, 32); err == nil {
			gids = append(gids, uint32(n))
		}
	}
	return gids
}

// peer is who has opened a connection, as the kernel knows them.
type peer struct {
	uid, gid uint32
	pid      int32 // as we see it; 0: we do not
}

// listener is a socket with those who may use it.
type listener struct {
	net.Listener
	allow Allow
	door  atomic.Pointer[gate.Gate] // before it, from Serve on
}

// guard refuses connections of those who may not. Safe for concurrent use.
type guard struct {
	allow Allow
	log   zerolog.Logger

	mu   sync.Mutex
	told map[uint32]struct{} // users of whom the log knows
}

// maxTold bounds what is remembered of strangers.
const maxTold = 1024

// protect puts the check before h. It is made at the first request and not when the connection comes in: the
// user database may be slow to answer, and only the one who waits for it should wait.
func (g *guard) protect(h http.Handler) http.Handler {
	if !checksPeers {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := peerOf(gate.Of(r.Context()).NetConn())
		switch {
		case err != nil:
			w.Header().Set("Connection", "close") // a stranger has no use for it
			fail(w, http.StatusForbidden, fmt.Errorf("the kernel doesn't say who asks: %w", err))
		case !g.allow.has(p, os.Geteuid(), groupsOf):
			g.tell(p)
			w.Header().Set("Connection", "close")
			fail(w, http.StatusForbidden, fmt.Errorf("user %d may not ask; root and user %d may, and whoever the daemon's file names, now users %d and groups %d: control: {users: [%d]}, or groups: [%d]",
				p.uid, os.Geteuid(), g.allow.UIDs, g.allow.GIDs, p.uid, p.gid))
		default:
			h.ServeHTTP(w, r)
		}
	})
}

// tell logs a stranger, once.
func (g *guard) tell(p peer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, known := g.told[p.uid]; known || len(g.told) == maxTold {
		return
	}
	g.told[p.uid] = struct{}{}
	g.log.Warn().Uint32("uid", p.uid).Uint32("gid", p.gid).Msg("refused on the control socket; further tries of this user are not logged")
}

// errNoPeers is why nobody can be allowed by name.
var errNoPeers = errors.New("control: users and groups are checked on Linux only; leave them out, and let the socket's mode and folder decide")
