package config

import (
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/tunlb/tunlb/tunlb/config/wording"
)

func (d *decoder) decodeControl(n *node) {
	d.decode(n, `"control"`, []key{
		{name: "socket", decode: d.decodeSocket},
		{name: "mode", decode: d.decodeMode},
		{name: "users", decode: func(n *node) { d.control.Users = d.accounts(n, "users") }},
		{name: "groups", decode: func(n *node) { d.control.Groups = d.accounts(n, "groups") }},
	})
}

// longestSocket is how long a socket's path may be: sun_path less the final NUL.
const longestSocket = 107

func (d *decoder) decodeSocket(n *node) {
	s, ok := d.str(n, "socket")
	switch {
	case !ok:
	case !strings.HasPrefix(s, "/"):
		d.fail(n.at, fmt.Sprintf("socket %s is no absolute path", wording.Quote(s)), "the commands look for it from other directories", "write it like /run/tunlb.sock")
	case len(s) > longestSocket:
		d.fail(n.at, fmt.Sprintf("socket %s is too long", wording.Quote(s)), fmt.Sprintf("a socket's path has at most %d bytes", longestSocket), "write a shorter one")
	default:
		d.control.Socket = path.Clean(s)
	}
}

// decodeMode reads permission bits as chmod does, in quotes or not.
func (d *decoder) decodeMode(n *node) {
	const instead = `write it like "0600"`
	if n.kind != text && n.kind != integer {
		d.fail(n.at, fmt.Sprintf(`"mode" is %s`, kindNames[n.kind]), "permission bits are expected", instead)
		return
	}
	v, err := strconv.ParseUint(strings.TrimPrefix(n.text, "0o"), 8, 32)
	if err != nil || v > uint64(fs.ModePerm) {
		d.fail(n.at, "mode "+wording.Quote(n.text)+" is no permission", "it is an octal number up to 0777", instead)
		return
	}
	d.control.Mode = fs.FileMode(v)
}

// accounts reads names or numeric IDs of users or groups.
func (d *decoder) accounts(n *node, name string) (list []string) {
	const mostAccounts, mostID = 1024, 1<<32 - 2 // the last one is none's
	first := make(map[string]pos)
	d.oneOrMore(n, name, mostAccounts, func(n *node) {
		account := n.text
		if n.kind == integer {
			id, err := strconv.ParseUint(n.text, 10, 32)
			if err != nil || id > mostID {
				d.fail(n.at, fmt.Sprintf("%s %s is no ID", name, wording.Quote(n.text)), fmt.Sprintf("IDs are from 0 to %d", uint32(mostID)), "write a name or a number in this range")
				return
			}
			account = strconv.FormatUint(id, 10)
		} else if _, ok := d.label(n, name); !ok {
			return
		}
		if at, known := first[account]; known {
			d.doubled(n.at, fmt.Sprintf("%s %s", name, wording.Quote(account)), at, "write it once")
			return
		}
		first[account] = n.at
		list = append(list, account)
	})
	return list
}
