package configs

import (
	"maps"
	"slices"
)

// DefaultThresholds are the limits of the precall test: what is at least as good as _pass passes, what is at least as good as _warn
// warns, the rest fails. Times are in milliseconds, loss in percent, bandwidth in kbit/s, the microphone in dBFS, the camera in frames per second.
// Precall.Thresholds overrides them one by one.
func DefaultThresholds() map[string]float64 {
	return map[string]float64{
		"rtt_pass": 200, "rtt_warn": 300,
		"jitter_pass": 30, "jitter_warn": 50,
		"loss_pass": 1, "loss_warn": 5,
		"bandwidth_hd": 1100, "bandwidth_pass": 350, "bandwidth_warn": 180,
		"mos_pass": 4.0, "mos_warn": 3.6,
		"latency_under_load_pass": 50, "latency_under_load_warn": 200,
		"microphone_pass": -50, "microphone_warn": -60,
		"camera_pass": 20, "camera_warn": 5,
	}
}

func thresholdNames() []string {
	return slices.Sorted(maps.Keys(DefaultThresholds()))
}
