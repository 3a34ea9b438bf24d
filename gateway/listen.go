package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// bindError says in one sentence why the gateway can't listen where the configuration says.
func bindError(key, addr string, err error) error {
	why := err.Error()
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		why = "another program listens there already (see `ss -ltnp`); stop it or choose another port"
	case errors.Is(err, os.ErrPermission):
		why = "ports below 1024 need CAP_NET_BIND_SERVICE; run it from its systemd unit, as root, or choose a higher port"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		why = "this machine has no such address; write one that it has, or only the port"
	}
	return fmt.Errorf("%s: can't listen at %s: %s", key, addr, why)
}

// listenTCP binds one address of the configuration.
func listenTCP(ctx context.Context, key, addr string) (net.Listener, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, bindError(key, addr, err)
	}
	return ln, nil
}

// listenUDP binds one address of the configuration for packets.
func listenUDP(ctx context.Context, key, addr string) (*net.UDPConn, error) {
	pc, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", addr)
	if err != nil {
		return nil, bindError(key, addr, err)
	}
	return pc.(*net.UDPConn), nil
}

// listenControl makes the control socket, 0660, replacing one that a gateway which is gone has left.
func listenControl(ctx context.Context, path string) (net.Listener, error) {
	if conn, err := net.Dial("unix", path); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("run_dir: another gateway answers at %s; give this one a run_dir of its own", path)
	}
	_ = os.Remove(path)
	ln, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("run_dir: can't make the control socket: %w", err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("run_dir: %w", err)
	}
	return ln, nil
}
