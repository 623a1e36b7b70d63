package control

import (
	"net/http"
	"os/user"
	"strconv"

	"github.com/rs/zerolog"

	"github.com/tunlb/tunlb/tunlb/gate"
	"github.com/tunlb/tunlb/tunlb/logging"
)

// Every change is logged with who has asked for it, and never held back; what was refused is held back as other lines are.
// What only asks is not logged.

// maxItems is how many items of a list a line of the log has.
const maxItems = 20

// changed begins the line of a change, or with an error that of one that came to nothing.
func (a *api) changed(r *http.Request, err error) *zerolog.Event {
	line := a.log.Warn().AnErr("error", err)
	if err == nil {
		line = logging.Always(a.log.Info())
	}
	return by(line, r)
}

// by says who asks, as the kernel and the machine's user database know them. The command's name is what it calls itself:
// a hint for people, and no proof.
func by(line *zerolog.Event, r *http.Request) *zerolog.Event {
	p, err := peerOf(gate.Of(r.Context()).NetConn())
	if err != nil {
		return line
	}
	line = line.Uint32("uid", p.uid)
	if u, err := user.LookupId(strconv.FormatUint(uint64(p.uid), 10)); err == nil {
		line = line.Str("user", u.Username)
	}
	if p.pid != 0 { // 0: of a namespace that we don't see into
		line = line.Int32("pid", p.pid)
	}
	if name := commandOf(p.pid); name != "" {
		line = line.Str("command", name)
	}
	return line
}

// Items are a list as the log shows it: its beginning, and how many there are if that is not all.
func Items(line *zerolog.Event, name string, list []string) *zerolog.Event {
	if len(list) > maxItems {
		line = line.Int(name+"_in_all", len(list))
		list = list[:maxItems]
	}
	return line.Strs(name, list)
}
