package control

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/ipvs"
)

// With asPeer the test binary is a client of the socket that the variable names, and does what asPeerDoes says.
const (
	asPeer     = "TUNLB_TEST_AS_PEER"
	asPeerDoes = "TUNLB_TEST_AS_PEER_DOES"
)

func bePeer() int {
	err := peerDoes(NewClient(os.Getenv(asPeer)), os.Getenv(asPeerDoes))
	fmt.Print(err)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, os.ErrPermission):
		return 3
	}
	return 1
}

// peerDoes asks, or changes something.
func peerDoes(c *Client, what string) error {
	ctx := context.Background()
	vip := ipvs.Service{Proto: policy.TCP, Addr: netip.MustParseAddr("203.0.113.22"), Port: 80}
	var err error
	switch what {
	case "status":
		_, err = c.Status(ctx)
	case "conns":
		err = c.Conns(ctx, tunlb.ConnFilter{}, -1, func(Conn) error { return nil })
	case "explain":
		_, err = c.Explain(ctx, tunlb.Question{})
	case "table":
		_, err = c.LVS(ctx)
	case "dry-run":
		_, err = c.Reload(ctx, true)
	case "reload":
		var r ReloadResult
		if r, err = c.Reload(ctx, false); err == nil && len(r.Errors) > 0 {
			err = errors.New(r.Errors[0])
		}
	case "drain":
		_, err = c.Order(ctx, tunlb.ServerOrder{Server: "rs1", Do: "drain"})
	case "kill":
		err = c.Kill(ctx, conn(0).ID())
	case "kill-all":
		_, err = c.KillAll(ctx, tunlb.ConnFilter{Server: "rs1"})
	case "ipvsadm":
		err = c.LVSCommand(ctx, ipvs.Command{Verb: ipvs.AddService, Service: vip, Scheduler: "rr"})
	default:
		err = fmt.Errorf("%s: no such thing", what)
	}
	return err
}
