"""The methods that ship with flowbind, as plugins: nothing else of it imports them."""
