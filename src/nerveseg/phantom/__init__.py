"""The built-in dataset: simulated B-mode ultrasound sweeps of the neck, so that the pipeline runs without real data.

The simulation is ultrasound physics in its simplest form, one module per step:

    anatomy     where skin, muscles, vessels, bone and nerve of one subject lie
    tissue      maps of diffuse scattering, specular interfaces (fascia, walls, rims) and absorption
    acoustics   echoes: random scatterers times the scattering map, blurred by a point spread function that widens with
                depth, give fully developed speckle (Goodman, "Some fundamental properties of speckle", 1976);
                attenuation along the beam gives shadows and posterior enhancement
    sweep       movement of probe, anatomy and speckle from frame to frame; log compression to grey levels
    dataset     the dataset zip

Brightness, contrast and speckle size were matched to the percentiles and the autocorrelation of real neck ultrasound.
"""
