package live

type cluster struct{}
type book struct{}
