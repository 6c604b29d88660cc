//go:build !linux

package inplace

func worksElsewhere(int, string) bool { return false } // it is not known
func serverIn(string) int             { return 0 }
