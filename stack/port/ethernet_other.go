//go:build !linux

package port

import "fmt"

func openTAP(TAPConfig) (Port, error) {
	return nil, fmt.Errorf("%w: only Linux has TAP devices: use a TUN", ErrUnavailable)
}

func openPacket(PacketConfig) (Port, error) {
	return nil, fmt.Errorf("%w: only Linux has packet sockets: use a TUN", ErrUnavailable)
}
