//go:build !linux

package port

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.zx2c4.com/wireguard/tun"
)

func openTUN(cfg TUNConfig) (Port, error) {
	if cfg.NetNS != "" {
		return nil, errors.New("netns: only Linux has network namespaces: leave it out")
	}
	dev, err := tun.CreateTUN(cfg.name(), cfg.mtu())
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: %w: run as administrator", ErrUnavailable, err)
	case err != nil:
		return nil, err
	}
	name, err := dev.Name()
	if err != nil {
		dev.Close()
		return nil, err
	}
	d := newDevice(dev, name, cfg.mtu(), dev.MTU, func() {})
	return newFallbackPort(d, dev.BatchSize(), func() bool { return false }), nil
}
